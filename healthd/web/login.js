// The form to log in with an API key, the same on every page. The key goes to healthd once; a cookie that scripts cannot
// read stands for it from then on.
import { access, ask } from "./api.js";

// Who is asking: `{name, scope, required}`; name and scope are null where nobody is known.
export const whoAmI = () => ask("auth/session");

export const logOut = () => ask("auth/session", { method: "DELETE" });

export class LoginForm {
  // Appears in `parent` (an empty element) as soon as any call is refused for want of a key. After a log-in it goes away
  // and calls `onLogin` with the session. A page whose calls succeed again says `hide()`: the log-in may have happened
  // in another tab.
  constructor(parent, onLogin) {
    this.parent = parent;
    this.form = document.createElement("form");
    this.form.className = "login card";
    this.form.innerHTML = `
      <h2>Log in</h2>
      <p>This healthd asks for an API key.</p>
      <label>API key <input name="key" type="password" autocomplete="current-password" required></label>
      <p class="alarm" role="alert"></p>
      <button class="primary">Log in</button>`;
    this.alarm = this.form.querySelector("[role=alert]");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(onLogin);
    });
    access.addEventListener("refused", () => this.show());
  }

  get shown() {
    return this.form.isConnected;
  }

  show() {
    if (!this.shown) this.parent.replaceChildren(this.form);
  }

  hide() {
    if (!this.shown) return;
    this.alarm.textContent = "";
    this.form.remove();
  }

  async send(onLogin) {
    const button = this.form.querySelector("button");
    button.disabled = true;
    try {
      const session = await ask("auth/login", { method: "POST", body: { key: new FormData(this.form).get("key") } });
      this.form.reset();
      this.hide();
      onLogin(session);
    } catch (error) {
      this.alarm.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  }
}
