// A client with the official TypeScript SDK that uses every feature of server-everything and prints what came of
// it, one JSON line each, without times and ids, so that two runs can be compared:
//
//   node transcript.mjs [--twice] -- COMMAND ARGUMENT...
//
// With --twice it prints {"now":"kill"} after the first part, waits for a line on stdin, and does it all again.

import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import {
  CallToolResultSchema,
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const split = process.argv.indexOf("--");
const twice = process.argv.slice(2, split).includes("--twice");
const [command, ...args] = process.argv.slice(split + 1);

const client = new Client(
  { name: "transcript", version: "1" },
  { capabilities: { sampling: {}, elicitation: {}, roots: { listChanged: true } } },
);
const told = { updated: 0, logs: 0 };
const waiting = [];

function tell(kind) {
  told[kind] += 1;
  for (const look of waiting.splice(0)) look();
}

// Resolves when the condition holds, looked at after each notification.
function until(condition) {
  return new Promise((resolve) => {
    const look = () => (condition() ? resolve() : waiting.push(look));
    look();
  });
}

client.setRequestHandler(CreateMessageRequestSchema, (request) => ({
  role: "assistant",
  model: "a model",
  content: { type: "text", text: `sampled from ${JSON.stringify(request.params.messages)}` },
}));
client.setRequestHandler(ElicitRequestSchema, (request) => ({
  action: "accept",
  content: { name: `answers to ${Object.keys(request.params.requestedSchema.properties).length} questions` },
}));
client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///a/root", name: "root" }] }));
client.setNotificationHandler(ResourceUpdatedNotificationSchema, () => tell("updated"));
client.setNotificationHandler(LoggingMessageNotificationSchema, () => tell("logs"));

function normal(value) {
  return JSON.parse(
    JSON.stringify(value)
      .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
      .replace(/\d{1,2}:\d\d:\d\d (AM|PM)/g, "TIME")
      .replace(/"(taskId)":"[^"]*"/g, '"$1":"ID"'),
  );
}

function print(what, value) {
  console.log(JSON.stringify({ [what]: normal(value) }));
}

async function attempt(what, work) {
  try {
    print(what, await work());
  } catch (error) {
    print(what, { error: { code: error.code, message: error.message } });
  }
}

const call = (name, input = {}, options = undefined) =>
  client.callTool({ name, arguments: input }, CallToolResultSchema, options);

async function tasks() {
  const states = [];
  const stream = client.experimental.tasks.callToolStream(
    { name: "simulate-research-query", arguments: { topic: "relays", ambiguous: false } },
    CallToolResultSchema,
    { task: { ttl: 60_000 } },
  );
  for await (const message of stream) {
    const state = message.type === "taskStatus" ? message.task.status : message.type;
    if (states.at(-1) !== state) states.push(state);
    if (message.type === "result") states.push(normal(message.result));
    if (message.type === "error") states.push(message.error.message);
  }
  return states;
}

async function exercise() {
  const research = tasks();
  const tools = (await client.listTools()).tools.filter((tool) => tool.name !== "mcpkeep");
  print("tools", tools);
  await attempt("echo", () => call("echo", { message: "hello \u2028 wörld" }));
  await attempt("sum", () => call("get-sum", { a: 2, b: 40 }));
  await attempt("bad arguments", () => call("get-sum", { a: "two" }));
  await attempt("unknown tool", () => call("no-such-tool"));
  await attempt("structured", () => call("get-structured-content", { location: "Chicago" }));
  await attempt("image", () => call("get-tiny-image"));
  await attempt("annotated", () => call("get-annotated-message", { messageType: "error", includeImage: true }));
  await attempt("links", () => call("get-resource-links", { count: 3 }));
  await attempt("reference", () => call("get-resource-reference", { resourceType: "Text", resourceId: 1 }));

  const progress = [];
  const onprogress = (update) => progress.push(update);
  const brief = { duration: 0.1, steps: 4 };
  await attempt("long", () => call("trigger-long-running-operation", brief, { onprogress }));
  // The SDK drops the last one where it comes in one read with the answer, which is a matter of chance.
  print("progress", progress.filter((update) => update.progress < update.total));
  const abort = new AbortController();
  const long = { duration: 60, steps: 600 };
  const stop = { signal: abort.signal, onprogress: () => abort.abort("enough") };
  await attempt("cancelled", () => call("trigger-long-running-operation", long, stop));

  await attempt("resources", () => client.listResources());
  await attempt("templates", () => client.listResourceTemplates());
  const uri = "demo://resource/dynamic/text/1";
  await attempt("read", () => client.readResource({ uri }));
  await attempt("unknown resource", () => client.readResource({ uri: "demo://nowhere" }));
  await attempt("subscribe", () => client.subscribeResource({ uri }));
  told.updated = 0;
  await attempt("updates on", () => call("toggle-subscriber-updates"));
  await until(() => told.updated > 0);
  await attempt("updates off", () => call("toggle-subscriber-updates"));
  await attempt("unsubscribe", () => client.unsubscribeResource({ uri }));

  await attempt("prompts", () => client.listPrompts());
  await attempt("prompt", () => client.getPrompt({ name: "args-prompt", arguments: { city: "Bern" } }));
  const ref = { type: "ref/prompt", name: "completable-prompt" };
  const argument = { name: "name", value: "A" };
  const context = { arguments: { department: "Engineering" } };
  await attempt("completion", () => client.complete({ ref, argument, context }));

  await attempt("level", () => client.setLoggingLevel("debug"));
  told.logs = 0;
  await attempt("logs on", () => call("toggle-simulated-logging"));
  await until(() => told.logs > 0);
  await attempt("logs off", () => call("toggle-simulated-logging"));

  await attempt("sampling", () => call("trigger-sampling-request", { prompt: "why?", maxTokens: 10 }));
  await attempt("elicitation", () => call("trigger-elicitation-request"));
  await attempt("roots", () => call("get-roots-list"));
  await attempt("ping", () => client.ping());
  print("tasks", await research);
}

await client.connect(new StdioClientTransport({ command, args, env: process.env, stderr: "ignore" }));
print("server", client.getServerVersion());
print("instructions", client.getInstructions());
await exercise();
if (twice) {
  console.log(JSON.stringify({ now: "kill" }));
  const input = createInterface({ input: process.stdin });
  await new Promise((resolve) => input.once("line", resolve));
  input.close();
  await exercise();
}
await client.close();
