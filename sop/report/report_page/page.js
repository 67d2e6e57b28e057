// What happens when the page opens. The table first; the charts, whose library is large, after it.
//
// `window.report` is for tests and for the curious in the browser's console:
//   report.usable                  milliseconds from asking for the page to its table being there
//   await report.charts            every chart is drawn
//   report.open(number)            opens a mixture

const contents = JSON.parse(document.getElementById("contents").textContent);
const report = { open: () => {} };

if (document.getElementById("rows")) {
  const rows = new Rows(contents.mixtures, contents.measures, (number) => report.open(number));
  const opened = new Opened(contents.mixtures, contents.measures, () => rows.order());
  report.open = (number) => opened.open(number);
}
const form = document.getElementById("find-parameter");
if (form) findParameters(form);

report.usable = performance.now();
report.charts = drawCharts(contents, (number) => report.open(number));
window.report = report;
