// What a tester does with openQA: logs in, opens a running job, looks at its
// live view. Returns the live view's sockets, as Chromium's network log has
// them, what the page says in its console, and its panel for developers.
export async function run(page, url) {
  const sockets = new Map();
  const log = [];
  page.on("console", (message) => log.push(message.text()));
  const client = await page.createCDPSession();
  await client.send("Network.enable");
  client.on("Network.webSocketCreated", ({ requestId, url }) => sockets.set(requestId, { url, status: 0, frames: [], error: "" }));
  client.on("Network.webSocketHandshakeResponseReceived", ({ requestId, response }) => { sockets.get(requestId).status = response.status; });
  client.on("Network.webSocketFrameReceived", ({ requestId, response }) => sockets.get(requestId).frames.push(response.payloadData));
  client.on("Network.webSocketFrameError", ({ requestId, errorMessage }) => { sockets.get(requestId).error = errorMessage; });

  await page.goto(new URL("/login", url).href);
  const user = await page.$eval("#user-action", (e) => e.innerText.trim());
  await page.goto(new URL("/tests/1#live", url).href);
  // The page says in its console what became of the socket, and then, once it
  // knows which module of the test runs, shows its panel for developers.
  const answer = /"what":"cmdsrvmsg"|Connection to livehandler lost/;
  const panel = () => page.$eval("#developer-status", (e) => e.offsetParent ? e.innerText.replace(/\s+/g, " ").trim() : "");
  while (!log.some((text) => answer.test(text)) || await panel() === "") {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return { user, sockets: [...sockets.values()], log, panel: await panel() };
}
