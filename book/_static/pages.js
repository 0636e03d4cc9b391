// "this cell", below a table or figure, opens the code that made it, also where code is switched off.
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a.to-cell");
  const code = link && link.closest(".cell")?.querySelector("details.above-input");
  if (!code) return;
  event.preventDefault();
  code.open = true;
  code.style.display = "block";
  code.scrollIntoView({ block: "center" });
});
// The theme's two buttons, which had their scripts in attributes.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("[data-does]");
  if (!button) return;
  if (button.dataset.does === "print") print();
  else if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen();
});
