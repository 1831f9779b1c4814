"""Everything that needs torch: data, teacher, candidates, distillation, quantization, export."""
