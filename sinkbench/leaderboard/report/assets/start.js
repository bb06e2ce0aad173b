// Colours, and everything else's start.

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = THEMES[name];
  byId("theme").setAttribute("aria-label", `Colours: ${name === "auto" ? "as the system has them" : name}. Change`);
}

// A page that is opened as a file may not be allowed to remember.
function remembered(name) {
  try {
    if (name) localStorage.setItem("sinkbench-theme", name);
    return localStorage.getItem("sinkbench-theme");
  } catch {
    return null;
  }
}

function startTheme() {
  const names = Object.keys(THEMES);
  let theme = names.includes(remembered()) ? remembered() : "auto";
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = names[(names.indexOf(theme) + 1) % names.length];
    setTheme(theme);
    remembered(theme);
  });
}

startTheme();
startBoard(drawPanels);
startPlots();
startSamples();
