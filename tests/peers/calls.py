"""Call a connection plugin's methods without a play, and print what came of each call.

Run by the Python of the peers: `python calls.py JSON`, where JSON is

    {"plugin": FULL NAME, "variables": {...}, "calls": [[METHOD, ARGUMENT...], ...]}

Prints a JSON list of what each call raised: "NameOfTheError: text", or null.
"""

from __future__ import annotations

import json
import os
import sys

from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

request = json.loads(sys.argv[1])
init_plugin_loader()
context = PlayContext()
context.remote_addr = request["variables"]["ansible_host"]
connection = connection_loader.get(request["plugin"], context, os.devnull)
connection.set_options(var_options=request["variables"])
raised: list[str | None] = []
for method, *arguments in request["calls"]:
    try:
        getattr(connection, method)(*arguments)
    except Exception as error:
        raised.append(f"{type(error).__name__}: {error}")
    else:
        raised.append(None)
print(json.dumps(raised))
