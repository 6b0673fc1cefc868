// The key that calls carry, where the service asks for one.
import { apiKey, setApiKey } from "./api.js";
import { byId } from "./dom.js";

/** @returns ask(isWanted): show the form, or only the button with which it can be had. */
export function buildAccess(onKey) {
  const form = byId("access");
  const button = byId("access-button");
  const input = byId("access-key");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(input.value.trim());
    input.value = "";
    form.hidden = true;
    onKey();
  });
  byId("access-forget").addEventListener("click", () => {
    setApiKey("");
    onKey();
  });
  button.addEventListener("click", () => {
    form.hidden = !form.hidden;
    if (!form.hidden) input.focus();
  });
  return (isWanted) => {
    if (isWanted && form.hidden) form.hidden = false;
    button.hidden = !(isWanted || apiKey());
  };
}
