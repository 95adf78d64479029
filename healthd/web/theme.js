// Dark or light: as the system has it, or as chosen by the button `#theme`. A classic script in the head, so that a page is
// never painted in the wrong colours first.
(() => {
  const KEY = "healthd.theme";
  const WORDS = { system: "as the system", dark: "dark", light: "light" };
  const root = document.documentElement;

  function chosen() {
    try {
      const name = JSON.parse(localStorage.getItem(KEY));
      return name in WORDS ? name : "system";
    } catch {
      return "system";
    }
  }

  function apply(name) {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    const button = document.getElementById("theme");
    if (!button) return;
    button.dataset.shows = name;
    button.setAttribute("aria-label", `Colours: ${WORDS[name]}`);
    button.title = `Colours: ${WORDS[name]}`;
  }

  apply(chosen());
  document.addEventListener("DOMContentLoaded", () => {
    let name = chosen();
    apply(name);
    document.getElementById("theme")?.addEventListener("click", () => {
      const names = Object.keys(WORDS);
      name = names[(names.indexOf(name) + 1) % names.length];
      apply(name);
      try {
        localStorage.setItem(KEY, JSON.stringify(name));
      } catch {
        // the choice lasts as long as the page
      }
    });
  });
})();
