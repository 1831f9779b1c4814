// Everything is drawn once, and again where the page changes between narrow and wide.
startFront();
startDrawing();
startPlots();
startTables();
let wasNarrow = isNarrow();
window.addEventListener("resize", () => {
  if (isNarrow() === wasNarrow) return;
  wasNarrow = isNarrow();
  if (frontPlot) { drawFront(); drawPinned(); }
  if (agreementPlot) drawAgreement();
  drawHeat();
});
document.documentElement.dataset.drawn = "yes";
