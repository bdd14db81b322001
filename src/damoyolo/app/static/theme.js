// As the system, or as the reader chose.

const KEY = "damoyolo-theme";
const THEMES = { auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

/** Show the theme chosen before, and let the button choose the next. */
export function setUpTheme(button) {
  const show = (theme) => {
    const [sign, text] = THEMES[theme];
    document.documentElement.dataset.theme = theme;
    button.textContent = sign;
    button.setAttribute("aria-label", `Theme: ${text}`);
    button.title = `Theme: ${text}`;
  };
  let theme = localStorage.getItem(KEY);
  if (!(theme in THEMES)) theme = "auto";
  show(theme);
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    localStorage.setItem(KEY, theme);
    show(theme);
  });
}
