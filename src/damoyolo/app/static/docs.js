// The API as /openapi.json describes it, and a way to try it.

import { takeToken } from "./api.js";
import { element, make } from "./panels.js";
import { setUpTheme } from "./theme.js";

setUpTheme(element("theme"));
takeToken();
const description = await (await fetch("openapi.json")).json();
const operations = Object.entries(description.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, operation]) => section(path, verb.toUpperCase(), operation)),
);
element("docs").replaceChildren(prose(description.info.description), ...operations);

function section(path, verb, operation) {
  const made = make("section", {},
    make("h2", {}, make("span", { className: "verb", textContent: verb }), make("code", { textContent: path }),
      make("span", { className: "soft", textContent: operation.summary ?? "" })),
    prose(operation.description ?? ""));
  if (operation.requestBody) made.append(prose(`Body: ${operation.requestBody.description}.`));
  if (operation.parameters?.length) made.append(...options(operation.parameters));
  made.append(...answers(operation.responses), ...attempt(path, verb, operation));
  return made;
}

function options(parameters) {
  const rows = parameters.map(({ name, description: text, schema }) => {
    const preset = schema.default === undefined ? "" : ` (default ${schema.default})`;
    return [name, `${text ?? ""}${preset}`];
  });
  return [make("h3", { textContent: "Options, behind ?" }), table(rows)];
}

function answers(responses) {
  const rows = Object.entries(responses).map(([status, response]) => {
    const schema = response.content?.["application/json"]?.schema;
    return [status, schema && status < 300 ? shape(schema) : said(response)];
  });
  return [make("h3", { textContent: "Answers" }), table(rows)];
}

function said({ description: text }) {
  return text === "Successful Response" ? "done" : text;
}

/** A paragraph; what is in backticks is code. */
function prose(text) {
  const parts = text.split("`").map((part, at) => (at % 2 ? make("code", { textContent: part }) : part));
  return make("p", {}, ...parts);
}

/** The fields of an object in the notation of TypeScript. */
function shape(schema) {
  if (schema.$ref) return shape(description.components.schemas[schema.$ref.split("/").pop()]);
  if (schema.anyOf) return schema.anyOf.map(shape).join(" | ");
  if (schema.type === "array") return schema.prefixItems ? `[${schema.prefixItems.map(shape).join(", ")}]` : `${shape(schema.items)}[]`;
  if (!schema.properties) return schema.type ?? "any";
  const fields = Object.entries(schema.properties).map(([name, each]) => `${name}: ${shape(each)}`);
  return `{ ${fields.join(", ")} }`;
}

function table(rows) {
  const made = rows.map(([name, text]) =>
    make("tr", {}, make("td", {}, make("code", { textContent: name })), make("td", { textContent: text })));
  return make("div", { className: "scroll" }, make("table", {}, make("tbody", {}, ...made)));
}

/** A button that sends the request and shows what comes back. */
function attempt(path, verb, operation) {
  const file = make("input", { type: "file", ariaLabel: "Image to send" });
  const button = make("button", { type: "button", textContent: `Try ${verb} ${path}` });
  const output = make("pre", { hidden: true });
  button.addEventListener("click", async () => {
    if (operation.requestBody && !file.files.length) return file.click();
    const token = sessionStorage.getItem("damoyolo-token");
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const response = await fetch(path.slice(1), { method: verb, headers, body: file.files[0] });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json");
    output.textContent = `${response.status}\n${isJson ? JSON.stringify(JSON.parse(text), null, 1) : text}`;
    output.hidden = false;
  });
  return [make("div", { className: "try" }, ...(operation.requestBody ? [file] : []), button), output];
}
