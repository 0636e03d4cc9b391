// The ledger's filter. Without scripts it is not shown, and every claim is there, folded; with it the address remembers the filter:
// claims.html?verdict=partly&section=Table+2&words=relu, and claims.html#claim-s8 opens that claim.
const form = document.querySelector(".ledger-tools");
const claims = [...document.querySelectorAll("details.claim")];
const texts = new Map(claims.map((claim) => [claim, claim.textContent.toLowerCase()]));
const button = form.elements.fold;

function filter(hash) {
  const given = new FormData(form);
  const verdicts = given.getAll("verdict");
  const words = given.get("words").toLowerCase().split(/\s+/).filter(Boolean);
  for (const claim of claims) {
    const { verdict, section, device } = claim.dataset;
    claim.hidden = !((verdicts.length === 0 || verdicts.includes(verdict))
      && (!given.get("section") || section === given.get("section"))
      && (!given.get("device") || device === given.get("device"))
      && words.every((word) => texts.get(claim).includes(word)));
  }
  for (const section of new Set(claims.map((claim) => claim.closest("section")))) {
    section.hidden = [...section.querySelectorAll("details.claim")].every((claim) => claim.hidden);
  }
  form.querySelector("output").textContent = `${claims.filter((claim) => !claim.hidden).length} of ${claims.length} claims`;
  for (const [name, value] of [...given]) if (!value) given.delete(name);
  const query = new URLSearchParams(given).toString();
  history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${hash}`);
}

function open() {
  const claim = claims.find((one) => `#${one.id}` === location.hash);
  if (!claim) return;
  if (claim.hidden) form.reset(), filter(location.hash);
  claim.open = true;
  claim.scrollIntoView();
}

for (const [name, value] of new URLSearchParams(location.search)) {
  const fields = form.querySelectorAll(`[name="${CSS.escape(name)}"]`);
  for (const field of fields) if (field.type === "checkbox") field.checked ||= field.value === value; else field.value = value;
}
// A filter goes before the claim that the address named.
form.addEventListener("input", () => filter(""));
form.addEventListener("submit", (event) => event.preventDefault());
button.addEventListener("click", () => {
  const opened = button.textContent === "Open all";
  for (const claim of claims) claim.open = opened && !claim.hidden;
  button.textContent = opened ? "Close all" : "Open all";
});
addEventListener("hashchange", open);
filter(location.hash);
open();
