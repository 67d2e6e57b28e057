// Runs before everything else, and says if the rest of the page is missing or does not run. The
// script at the end of the page sets `pageRuns`.
addEventListener("DOMContentLoaded", () => {
  if (window.pageRuns) return;
  const message = document.createElement("p");
  message.id = "damaged";
  message.setAttribute("role", "alert");
  message.textContent =
    "This page is damaged: a part of the file is missing or was changed. Copy or write it again.";
  document.body.prepend(message);
});
