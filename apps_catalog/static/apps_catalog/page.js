// The page of apps: log in, choose an app, fill in its form, follow the run, view the result.
const main = document.getElementById("main");
const logout = document.getElementById("logout");
const address = decodeURIComponent(location.pathname.replace(/^\/apps\/?/, "").replace(/\/$/, ""));
const FILES = ["image", "mask", "video", "audio", "file"];
const MOST_STEPS = 2500; // of a slider; finer ranges get a number field only
const tokens = JSON.parse(sessionStorage.getItem("comfyserve.tokens") ?? "{}");
let renewing = null; // the renewal in progress, which all requests wait for

// `make("p", { className: "x" }, "text", child)`: text is never read as HTML.
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

async function send(path, options = {}) {
  if (renewing && !path.startsWith("/auth/")) { await renewing; }
  const access = tokens.access_token;
  const headers = { ...(access ? { Authorization: `Bearer ${access}` } : {}), ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.status !== 401 || !access) { return response; }
  // Another request may have renewed it meanwhile.
  if (access === tokens.access_token) {
    renewing ??= renew().finally(() => { renewing = null; });
    await renewing;
  }
  return send(path, options);
}

async function answerOf(response) {
  const body = await response.json();
  if (!response.ok) {
    const details = (body.details ?? []).map((detail) => detail.message);
    throw new Error(details.join("\n") || body.message);
  }
  return body;
}

const api = async (path, options = {}) =>
  answerOf(await send(path, { ...options, headers: { Accept: "application/json", ...options.headers } }));

const post = (path, body) => api(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function keep(pair) {
  tokens.access_token = pair.access_token;
  tokens.refresh_token = pair.refresh_token;
  sessionStorage.setItem("comfyserve.tokens", JSON.stringify(tokens));
}

function forget() {
  sessionStorage.removeItem("comfyserve.tokens");
  delete tokens.access_token;
  delete tokens.refresh_token;
}

// Get a new access token: with the refresh token, else with a login dialog, which keeps the form's contents.
async function renew() {
  const given = { refresh_token: tokens.refresh_token };
  forget();
  try { keep(await post("/auth/refresh", given)); return; } catch { /* the session has ended */ }
  const dialog = make("dialog", { ariaLabel: "Log in again" });
  document.body.append(dialog);
  await new Promise((done) => {
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.append(loginForm("Log in again", done));
    dialog.showModal();
  });
  dialog.remove();
}

function loginForm(title, done) {
  const error = make("p", { className: "error", role: "alert" });
  const form = make("form", {}, make("h1", {}, title),
    make("label", {}, "E-mail address", make("input", { name: "email", type: "email", autocomplete: "username", required: true })),
    make("label", {}, "Password", make("input", { name: "password", type: "password", autocomplete: "current-password", required: true })),
    make("button", { className: "main" }, "Log in"), error);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      keep(await post("/auth/login", Object.fromEntries(new FormData(form))));
      done();
    } catch (problem) { error.textContent = problem.message; }
  });
  return form;
}

async function showGallery() {
  const apps = await api("/apps/?limit=100");
  const list = make("ul", { className: "gallery" }, ...apps.map((app) => make("li", {},
    make("a", { href: `/apps/${app.app}` }, make("strong", {}, app.title), make("br"), app.description || app.app))));
  main.replaceChildren(make("h1", {}, "Apps"), apps.length ? list : make("p", {}, "There are no apps that you may run yet."));
}

function control(name, property) {
  const type = property["x-type"];
  const value = property.default ?? "";
  if (property.enum) {
    return make("select", { name }, ...property.enum.map((each) => make("option", { selected: each === value }, each)));
  }
  if (type === "boolean") { return make("input", { name, type: "checkbox", checked: value === true }); }
  if (FILES.includes(type)) { return upload({ name, type: "file", accept: { image: "image/*", mask: "image/*", video: "video/*", audio: "audio/*" }[type] ?? "" }); }
  if (type === "integer" || type === "number") {
    const placeholder = property["x-random"] ? "Random" : "";
    const field = make("input", { name, type: "number", placeholder, step: property["x-step"] ?? (type === "integer" ? 1 : "any"), min: property.minimum ?? "", max: property.maximum ?? "", value });
    return isSlidable(property) ? withSlider(field, property) : field;
  }
  return type === "text" ? make("textarea", { name, rows: 4, value }) : make("input", { name, value });
}

// Whether the range has few enough steps for a slider.
function isSlidable({ minimum, maximum, "x-type": type, "x-step": step, "x-random": random }) {
  const size = step ?? (type === "integer" ? 1 : (maximum - minimum) / 100);
  return !random && size > 0 && (maximum - minimum) / size <= MOST_STEPS;
}

function withSlider(field, { minimum: min, maximum: max, title }) {
  const step = field.step === "any" ? (max - min) / 100 : field.step;
  const slider = make("input", { type: "range", min, max, step, ariaLabel: `${title}, as a slider` });
  slider.value = field.value;
  slider.addEventListener("input", () => { field.value = slider.value; });
  field.addEventListener("input", () => { slider.value = field.value; });
  return make("span", { className: "slider" }, field, slider);
}

// A file field with a preview of the chosen picture.
function upload(properties) {
  const field = make("input", properties);
  const preview = make("img", { className: "chosen", alt: "The chosen picture", hidden: true });
  const show = (source) => {
    if (preview.src.startsWith("blob:")) { URL.revokeObjectURL(preview.src); }
    preview.hidden = !source;
    if (source) { preview.src = URL.createObjectURL(source); } else { preview.removeAttribute("src"); }
  };
  field.addEventListener("change", () => {
    delete field.dataset.fileId;
    const [chosen] = field.files;
    show(chosen?.type.startsWith("image/") ? chosen : null);
  });
  field.addEventListener("again", async () => {
    field.value = "";
    const response = await send(`/files/${field.dataset.fileId}/thumbnail`);
    show(response.ok ? await response.blob() : null);
  });
  return make("span", { className: "upload" }, field, preview);
}

async function valueOf(field, property) {
  const type = property["x-type"];
  if (type === "boolean") { return field.checked; }
  if (FILES.includes(type)) {
    if (field.dataset.fileId || !field.files.length) { return field.dataset.fileId ?? null; }
    const form = new FormData();
    form.append("file", field.files[0]);
    field.dataset.fileId = (await api("/files/upload", { method: "POST", body: form })).file_id;
    return field.dataset.fileId;
  }
  if (type === "integer" || type === "number") { return field.value === "" ? null : Number(field.value); }
  return field.value;
}

function curl(inputs) {
  const body = JSON.stringify({ inputs }).replaceAll("'", "'\\''");
  return `curl -X POST ${location.origin}/apps/${address}/run \\\n  -H "Authorization: Bearer $TOKEN" \\\n  -H "Content-Type: application/json" \\\n  -d '${body}'`;
}

async function showApp() {
  const [app, schema] = await Promise.all([api(`/apps/${address}`), api(`/apps/${address}/schema`)]);
  document.title = `${app.title} · ComfyServe`;
  const properties = schema.inputs.properties;
  const error = make("p", { className: "error", role: "alert" });
  const shown = make("pre", { hidden: true, tabIndex: 0 });
  const curlButton = make("button", { type: "button" }, "Show the curl");
  const form = make("form", {}, ...Object.entries(properties).map(([name, property]) =>
    make("label", {}, property.title, control(name, property))), make("button", { className: "main" }, "Run"), curlButton, error, shown);
  const result = make("section", { className: "result", ariaLabel: "Result" });
  const history = make("ul", { className: "history", ariaLabel: "History" });
  main.replaceChildren(make("h1", {}, app.title), make("p", {}, app.description), make("div", { className: "work" }, form, make("div", {}, result, history)));
  const gather = async () => {
    const inputs = {};
    for (const [name, property] of Object.entries(properties)) {
      const value = await valueOf(form.elements.namedItem(name), property);
      if (value !== null) { inputs[name] = value; }
    }
    return inputs;
  };
  const fill = (inputs) => {
    for (const [name, value] of Object.entries(inputs ?? {})) {
      const field = form.elements.namedItem(name);
      if (!field) { continue; }
      if (field.type === "checkbox") { field.checked = value; } else if (field.type === "file") { field.dataset.fileId = value; } else { field.value = value; }
      field.dispatchEvent(new Event(field.type === "file" ? "again" : "input"));
    }
  };
  const refresh = async () => {
    const runs = await api(`/workflows/?limit=20&status=completed&app=${encodeURIComponent(app.app)}`);
    history.replaceChildren(...runs.map((run) => {
      const picture = (run.outputs.images ?? [])[0];
      const button = make("button", { type: "button", ariaLabel: `Result of ${run.created_at}` }, picture?.thumbnail_url ? make("img", { src: picture.thumbnail_url, alt: "" }) : "Result");
      button.addEventListener("click", async () => showResult(await api(`/workflows/${run.execution_id}`), result, fill));
      return make("li", {}, button);
    }));
  };
  curlButton.addEventListener("click", async () => { shown.textContent = curl(await gather()); shown.hidden = false; });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.textContent = "";
    try {
      const run = await post(`/apps/${address}/run`, { inputs: await gather() });
      await follow(run.execution_id, result);
      showResult(await api(`/workflows/${run.execution_id}`), result, fill);
      await refresh();
    } catch (problem) { error.textContent = problem.message; }
  });
  await refresh();
}

async function follow(id, where) {
  const bar = make("progress", { max: 100, value: 0, ariaLabel: "Progress" });
  const preview = make("img", { alt: "Preview", hidden: true });
  where.replaceChildren(bar, preview);
  const { events_url: url } = await api(`/workflows/${id}`);
  await new Promise((done) => {
    const stream = new EventSource(`${url}&previews=true`);
    stream.addEventListener("progress", (event) => { bar.value = JSON.parse(event.data).percentage ?? bar.value; });
    stream.addEventListener("preview", (event) => {
      const data = JSON.parse(event.data);
      preview.src = data.image;
      preview.hidden = false;
    });
    stream.addEventListener("end", () => { stream.close(); done(); });
  });
}

function showResult(run, where, fill) {
  const made = Object.values(run.outputs).flat().map((each) => {
    if (each.text) { return make("p", {}, each.text); }
    if ((each.content_type ?? "").startsWith("video/")) { return make("video", { src: each.url, controls: true }); }
    if ((each.content_type ?? "").startsWith("audio/")) { return make("audio", { src: each.url, controls: true }); }
    if ((each.content_type ?? "").startsWith("image/")) { return make("img", { src: each.url, alt: each.filename }); }
    return make("a", { href: each.url }, each.filename);
  });
  const again = make("button", { type: "button" }, "Use these inputs again");
  again.addEventListener("click", () => fill(run.inputs));
  where.replaceChildren(...(run.error ? [make("p", { className: "error", role: "alert" }, run.error)] : made), make("p", {}, again));
}

async function start() {
  logout.hidden = true;
  if (!tokens.access_token) { main.replaceChildren(loginForm("Log in", start)); return; }
  logout.hidden = false;
  try { await (address ? showApp() : showGallery()); } catch (problem) {
    main.replaceChildren(make("p", { className: "error", role: "alert" }, problem.message));
  }
}

logout.addEventListener("click", async () => { await api("/auth/logout", { method: "POST" }).catch(() => null); forget(); start(); });
start();
