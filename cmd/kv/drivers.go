package main

import "github.com/polykv/kv"

// drivers is what the command can open.
func drivers() kv.Drivers { return kv.Drivers{} }
