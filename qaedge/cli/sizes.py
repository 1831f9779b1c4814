"""Sizes of files for a search that asks for no latency: files of what was not measured are written and counted."""

from __future__ import annotations

from qaedge import report
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import need_nn, resolve
from qaedge.device import load_device, load_devices, table_name
from qaedge.errors import NotMeasured
from qaedge.layer_bits import LayerBits
from qaedge.probes import origin_network
from qaedge.project import Workspace
from qaedge.sizes import SizeRow, SizeTable
from qaedge.space import SearchSpace
from qaedge.tables import anchor_key


def size_table(workspace: Workspace, space: SearchSpace, device: str, file_format: str, quiet: bool) -> SizeTable:
    """Return the sizes of all candidates, and of the teacher, as files of one format for a device.

    Borders are left out, as in `LatencyTable.predict_size`.
    What is not known yet is exported; that needs torch, and the device where nobody knows which form its files have.

    Raises:
        MissingExtra: there are files to be written, and torch is not installed.
        NotMeasured: the project is of another space by now.
        MeasurementError: a device that has to be asked, and cannot be reached.
        UnsupportedOperator: a block that cannot be exported.
    """
    store = SizeTable.store(workspace.size_file(device))
    table = SizeTable(device, store.rows(), file_format)
    layers = LayerBits.read(workspace, space)
    origin = origin_network(space)
    wanted = {anchor_key(space, str(c.scheme)) for c in space.unique()} | {c.key for c in space.unique()}
    wanted |= {origin[0]} if origin else set()
    # Which layers are the most sensitive may be known only since.
    missing = {
        key for key in wanted if key not in table.rows or layers.of_row(key) not in ((), table.rows[key].layer_bits)
    }
    if not missing:
        return table
    need_nn()
    from qaedge.nn.candidates import export_candidates

    teacher, now = resolve(workspace, untrained=True)
    if now.hash != space.hash:
        raise NotMeasured(
            "The sizes of some candidates are not known, and the project has changed since its space was made.",
            "The space is renewed by now. Run: qaedge distill",
        )
    # Boards that share a table are asked by the first of them: what they have in common has no address.
    boards = load_devices(workspace.project.device)
    asked = boards[0] if table_name(boards) == device else load_device(device)
    choose = choose_for(asked, workspace)
    steps = export_candidates(workspace, teacher, space, choose, missing, file_format)
    for step in report.progress(steps, f"sizes as {file_format}", quiet):
        key, artifact = step.result
        store.append(SizeRow(key, file_format, artifact.form, artifact.size_bytes, layers.of_row(key)))
    return SizeTable(device, store.rows(), file_format)
