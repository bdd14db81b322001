// Talks to the server that this page came from, and to nobody else.

const TOKEN = "damoyolo-token";
const TRIES = 5;

/** An answer that is a sentence instead of a result. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A token behind the # of the address, which the browser sends nowhere, is kept until the tab is closed. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    setToken(given);
    history.replaceState(null, "", location.pathname);
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** JSON of an address; a busy server is asked again when it says. */
export async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  for (let attempt = 1; ; attempt++) {
    const response = await reach(path, { ...options, headers });
    if ((response.status === 503 || response.status === 429) && attempt < TRIES) {
      await pause(1000 * Number(response.headers.get("retry-after") || 1));
      continue;
    }
    const said = await response.json().catch(() => ({}));
    if (!response.ok) throw new Problem(response.status, said.error || `the server answered ${response.status}`);
    return said;
  }
}

/** Everything the model can see in an image file: the sliders choose among it without asking again. */
export function predict(blob, { score, overlap, signal }) {
  const options = new URLSearchParams({ score, max_detections: 1000 });
  if (overlap !== null) options.set("nms_iou", overlap);
  return ask(`predict?${options}`, { method: "POST", body: blob, signal });
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached. Is `damoyolo app` still running?");
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
