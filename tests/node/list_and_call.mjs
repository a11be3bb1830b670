// List and call a tool with one of the npm clients: node list_and_call.mjs CLIENT URL TOOL TEXT
// CLIENT is sdk, client or client-auto; the token comes from MCP_TOKEN. Prints one JSON object.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [kind, url, tool, text] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

let Client, Transport, options = {};
if (kind === "sdk") {
  ({ Client } = await load("@modelcontextprotocol/sdk/client/index.js"));
  ({ StreamableHTTPClientTransport: Transport } = await load(
    "@modelcontextprotocol/sdk/client/streamableHttp.js",
  ));
} else {
  ({ Client, StreamableHTTPClientTransport: Transport } = await load("@modelcontextprotocol/client"));
  if (kind === "client-auto") options = { versionNegotiation: { mode: "auto" } };
}

const client = new Client({ name: "agentgw-tests", version: "1.0.0" }, options);
const headers = { Authorization: `Bearer ${process.env.MCP_TOKEN}` };
await client.connect(new Transport(new URL(url), { requestInit: { headers } }));
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: { text } });
let refusal = null;
try {
  await client.callTool({ name: "not_granted", arguments: {} });
} catch (error) {
  refusal = { code: error.code, message: error.message };
}
await client.close();
console.log(JSON.stringify({ tools: tools.map(({ name }) => name), result, refusal }));
