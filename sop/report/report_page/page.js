// Runs when the page opens: first the table, then the charts, whose library is large.
//
// `window.report` is for tests and for the browser's console:
//   report.usable                  milliseconds from the navigation to the finished table
//   await report.charts            resolves when every chart is drawn
//   report.open(number)            opens a mixture

const contents = JSON.parse(document.getElementById("contents").textContent);
const report = { open: () => {} };

explainTerms(contents.terms);
markScrolling(document.querySelectorAll(".scroll"));

if (document.getElementById("rows")) {
  const rows = new Rows(contents.mixtures, contents.measures, (number) => report.open(number));
  const dialog = new MixtureDialog(contents, () => rows.order());
  report.open = (number) => dialog.open(number);
}
// One sound plays at a time.
document.addEventListener(
  "play",
  (event) => {
    for (const media of document.querySelectorAll("audio, video")) {
      if (media !== event.target) media.pause();
    }
  },
  true,
);
const form = document.getElementById("find-parameter");
if (form) findParameters(form);

report.usable = performance.now();
report.charts = drawCharts(contents, (number) => report.open(number));
window.report = report;
window.pageRuns = true;
