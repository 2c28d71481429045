"use strict";
for (const slider of document.querySelectorAll(".slider input")) {
  const cut = () => slider.parentElement.style.setProperty("--cut", slider.value + "%");
  slider.addEventListener("input", cut);
  cut(); // a browser that goes back restores the value, not the picture
}
// Paper cannot be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
