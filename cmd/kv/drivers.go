package main

import (
	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
)

// drivers is what the command can open.
func drivers() kv.Drivers { return kv.Drivers{boltkv.Driver{}} }
