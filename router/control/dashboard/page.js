// The dashboard: asks the control API every second and writes what it says into the page. Everything goes in as text, never as
// markup: model names and reasons are other people's words. The token lives in this tab's session storage alone.
"use strict";

const id = (name) => document.getElementById(name);
const SVG = "http://www.w3.org/2000/svg";
let asking = null;

function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

async function call(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("bluegreen-token");
  if (token) headers.Authorization = "Bearer " + token;
  const options = { headers, cache: "no-store", signal: AbortSignal.timeout(5000) };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.method = "POST";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    await askToken();
    return call(path, body);
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.detail || answer.statusText);
  return value;
}

function askToken() {
  if (asking === null) {
    asking = new Promise((resolve) => {
      const dialog = id("ask");
      dialog.addEventListener("close", () => {
        sessionStorage.setItem("bluegreen-token", id("token").value.trim());
        asking = null;
        resolve();
      }, { once: true });
      dialog.showModal();
    });
  }
  return asking;
}

const count = (value) => value.toLocaleString("en");
const ms = (value) => (value === null ? "–" : value.toPrecision(3) + " ms");
const rate = (value) => (100 * value).toFixed(2) + " %";

function rows(body, pairs) {
  body.replaceChildren(...pairs.map(([name, value, kind]) => {
    const row = make("tr");
    row.append(make("td", name), make("td", value, kind));
    return row;
  }));
}

function showArm(colour, arm, counts) {
  id(colour + "-name").textContent = arm ? arm.name : "none yet";
  id(colour + "-servers").replaceChildren(...(arm ? arm.servers : []).map((server) => {
    const item = make("li", server.url);
    if (!server.healthy) item.append(make("span", " down", "bad"));
    return item;
  }));
  const wrong = (value) => (value > 0 ? "bad" : "");
  rows(id(colour + "-counts"), [
    ["requests", count(counts.requests)],
    ["errors", count(counts.errors), wrong(counts.errors)],
    ["answered by the other arm", count(counts.fallbacks)],
    ["p50", ms(counts.latency_ms.p50)],
    ["p95", ms(counts.latency_ms.p95)],
    ["p99", ms(counts.latency_ms.p99)],
    ["in flight", count(counts.in_flight)],
    ["breaker", counts.breaker, counts.breaker === "closed" ? "" : "bad"],
  ]);
}

function showStatus(status) {
  const green = status.split.green_percent;
  id("share-blue").style.width = 100 - green + "%";
  id("share-green").style.width = green + "%";
  const blue = +(100 - green).toFixed(2);
  id("share-blue-text").textContent = `blue ${blue} %`;
  id("share-green-text").textContent = status.green ? `green ${green} %` : "";
  id("share").setAttribute("aria-label", `blue ${blue} percent, green ${green} percent`);
  const how = status.split.key ? `split by ${status.split.key}` : "split by chance";
  const idle = status.shadow.running ? "" : " (its process does not run)";
  id("how").textContent = `${how} · shadow ${status.shadow.percent} %${idle} · rollout ${status.rollout.state}`;
  showArm("blue", status.blue, status.arms.blue);
  showArm("green", status.green, status.arms.green);
  id("workers").replaceChildren(...status.workers.map((worker) =>
    make("li", `process ${worker.pid}: revision ${worker.revision}, ${count(worker.requests)} requests`)));
  if (status.workers.length === 0) id("workers").append(make("li", "none runs", "bad"));
  id("line").textContent = `revision ${status.revision} · ${count(status.connections)} client connections`;
  id("line").className = "";
  id("to-blue").disabled = green === 0;
}

// The rate as a mark and its confidence interval as a bar, on an axis that begins at a round value below the interval.
function showRate(name, value) {
  const picture = id(name);
  const [low, high] = value.ci;
  const left = [0.99, 0.95, 0.9, 0.8, 0.5].find((start) => low >= start) || 0;
  const at = (share) => 6 + (388 * (Math.max(share, left) - left)) / (1 - left);
  const part = (tag, attributes, kind, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, what] of Object.entries(attributes)) node.setAttribute(key, what);
    if (kind) node.setAttribute("class", kind);
    if (text) node.textContent = text;
    return node;
  };
  picture.replaceChildren(
    part("line", { x1: 6, x2: 394, y1: 11, y2: 11 }, "axis"),
    part("rect", { x: at(low), y: 5, width: Math.max(at(high) - at(low), 1), height: 12, rx: 3 }, "range"),
    part("text", { x: 6, y: 31 }, "", 100 * left + " %"),
    part("text", { x: 394, y: 31, "text-anchor": "end" }, "", "100 %"),
  );
  if (value.rate !== null) picture.append(part("circle", { cx: at(value.rate), cy: 11, r: 5 }, "mark"));
  const words = value.rate === null ? "nothing compared yet"
    : `${rate(value.rate)}, between ${rate(low)} and ${rate(high)} (n\u00a0=\u00a0${count(value.n)})`;
  id(name + "-text").textContent = words;
  picture.setAttribute("aria-label", words);
}

function showEvidence(evidence) {
  id("release").textContent = "release " + evidence.release;
  showRate("agreement", evidence.agreement);
  showRate("noise", evidence.noise);
  id("pairs").textContent = `${count(evidence.pairs)} pairs compared, ${count(evidence.dropped)} sampled exchanges not compared`;
  id("verdict").textContent = evidence.verdict.verdict;
  id("verdict").className = "verdict " + (["promote", "rollback"].includes(evidence.verdict.verdict) ? evidence.verdict.verdict : "");
  id("reasons").replaceChildren(...evidence.verdict.reasons.map((reason) =>
    make("li", typeof reason === "string" ? reason : JSON.stringify(reason))));
}

function showHistory(history) {
  id("history").replaceChildren(...history.reverse().map((entry) => {
    const row = make("tr");
    const when = new Date(1000 * entry.when).toLocaleString();
    for (const text of [when, entry.revision || "", entry.who, entry.action, entry.why]) row.append(make("td", text));
    return row;
  }));
}

async function refresh() {
  try {
    showStatus(await call("/v1/status"));
    showEvidence(await call("/v1/evidence"));
    showHistory((await call("/v1/history?last=12")).history);
  } catch (error) {
    complain(error);
  }
}

function complain(error) {
  const silent = error instanceof TypeError || error.name === "TimeoutError";
  id("line").textContent = silent ? "the control process does not answer" : error.message;
  id("line").className = "bad";
}

async function loop() {
  if (!document.hidden) await refresh();
  setTimeout(loop, 1000);
}

id("to-blue").addEventListener("click", async () => {
  id("to-blue").disabled = true;
  try {
    const done = await call("/v1/switch", { to: "blue", reason: "dashboard" });
    id("line").textContent = `all traffic goes to blue (revision ${done.revision})`;
    await refresh();
  } catch (error) {
    complain(error);
    id("to-blue").disabled = false;
  }
});

loop();
