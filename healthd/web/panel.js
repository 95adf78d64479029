// The panel: sections by the hash of the address, who is logged in, and what goes on only while somebody looks.
import { SILENT, access } from "./api.js";
import { LoginForm, logOut, whoAmI } from "./login.js";
import { Cameras } from "./panel_cameras.js";
import { clock, el, say } from "./panel_dom.js";
import { Jobs } from "./panel_jobs.js";
import { Logs } from "./panel_logs.js";
import { Models } from "./panel_models.js";
import { Plugins } from "./panel_plugins.js";
import { Process } from "./panel_process.js";
import { Settings } from "./panel_settings.js";
import { Viewers } from "./panel_viewers.js";
import { House } from "./panel_house.js";
import { hush, setSession, tell } from "./panel_work.js";

const at = (id) => document.getElementById(id);
const [panel, nav, main, silent, readonly] = ["panel", "sections", "main", "silent", "readonly"].map(at);
const LONGEST_TIMER = 2 ** 31 - 1;

let session = null; // null until it is known, and while somebody has to log in
let expiry = 0;
let answeredAt = null;

const context = {
  failed(error) {
    if (error.status === 401) return; // the form to log in says it
    if (error.message.startsWith(SILENT)) {
      const since = answeredAt ? `; what stands here is from ${clock(answeredAt)}` : "";
      say(silent, `${error.message}${since}`);
      silent.hidden = false;
      panel.classList.add("stale");
    } else {
      tell(error.message, { failed: true });
    }
  },
  answered() {
    answeredAt = Date.now();
    if (silent.hidden) return;
    silent.hidden = true;
    panel.classList.remove("stale");
  },
};

const house = new House(context);
const sections = [Cameras, Viewers, Models, Plugins, Jobs, Settings, Logs, Process].map((Section) => new Section(house, context));
const links = new Map();
let current = null;

for (const section of sections) {
  section.element = el(
    "section",
    { id: `section-${section.id}`, "aria-labelledby": `head-${section.id}`, hidden: true },
    el("h2", { id: `head-${section.id}`, tabindex: "-1" }, section.title),
    ...section.content,
  );
  main.append(section.element);
  links.set(section, nav.appendChild(el("a", { href: `#${section.id}` }, section.title)));
}

// -- which section, and whether anybody looks ---------------------------------------------------------------------------

function choose() {
  const [id] = location.hash.slice(1).split("/");
  const chosen = sections.find((section) => section.id === id) ?? sections[0];
  if (chosen === current) return;
  const first = current === null;
  current?.stop();
  if (current) current.element.hidden = true;
  current = chosen;
  for (const [section, link] of links) {
    if (section === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current.element.hidden = false;
  links.get(current).scrollIntoView({ block: "nearest", inline: "nearest" });
  document.title = `${current.title} · healthd panel`;
  if (!first) current.element.querySelector("h2").focus({ preventScroll: true });
  go();
}

// Everything goes on while somebody is logged in and looks, and nothing else does.
function go() {
  const looking = session !== null && !document.hidden;
  for (const one of [house, current]) looking ? one.start() : one.stop();
}

// -- who is here --------------------------------------------------------------------------------------------------------

function begin(now) {
  const known = !now.required || now.name !== null;
  session = known ? now : null;
  clearTimeout(expiry);
  panel.hidden = !known;
  at("session").hidden = !known || !now.required;
  if (known) {
    login.hide();
    welcome(now);
  } else {
    login.show();
  }
  go();
}

function welcome({ name, scope, required, expires_in_seconds: left }) {
  const until = left == null ? "" : `, until ${clock(Date.now() + left * 1000, { seconds: false })}`;
  say(at("who"), required ? `${name} (${scope})${until}` : "");
  readonly.hidden = scope === "admin";
  say(readonly, `The key ${name} may only read: to change something, log in with a key of scope admin.`);
  setSession({ scope });
  if (left != null) expiry = setTimeout(look, Math.min(left * 1000 + 500, LONGEST_TIMER));
}

// Ask who is here. Without an answer it is asked again.
async function look() {
  clearTimeout(expiry);
  try {
    begin(await whoAmI());
    context.answered();
  } catch (error) {
    context.failed(error);
    expiry = setTimeout(look, 3000);
  }
}

const login = new LoginForm(at("login"), () => {
  hush();
  look();
});

// Nobody is here any more: nothing is asked, and nothing shown.
function end() {
  session = null;
  clearTimeout(expiry);
  panel.hidden = at("session").hidden = silent.hidden = true;
  say(at("summary"), "");
  go();
}

// A call was refused: the log-in has ended, here or in another tab.
access.addEventListener("refused", () => session && end());

at("logout").addEventListener("click", async () => {
  end();
  try {
    await logOut();
    tell("logged out");
  } catch (error) {
    tell(error.message, { failed: true });
  }
  look();
});

at("dismiss").addEventListener("click", hush);
at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the section's
  main.focus();
});
window.addEventListener("hashchange", choose);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) go();
  else look(); // somebody may have logged in or out in another tab
});

choose();
look();
