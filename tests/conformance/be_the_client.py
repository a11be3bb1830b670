"""What the conformance suite starts as the MCP client it tests: be_the_client.py PORT URL.

It hands the URL, the scenario and its context to the test that listens at PORT (client_role.py), prints what
came of it, and exits 0 if the tool answered.
"""

import json
import os
import sys
import urllib.request

port, url = sys.argv[1:]
told = {
    "url": url,
    "scenario": os.environ["MCP_CONFORMANCE_SCENARIO"],
    "context": json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")),
}
with urllib.request.urlopen(f"http://127.0.0.1:{port}/", json.dumps(told).encode()) as answer:
    said = json.load(answer)
print(json.dumps(said))
sys.exit(0 if said["called"] else 1)
