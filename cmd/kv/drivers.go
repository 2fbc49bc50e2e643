package main

import (
	"crypto/tls"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
)

// drivers is what the command can open. conf, if it is not nil, is for
// connections.
func drivers(conf *tls.Config) kv.Drivers {
	return kv.Drivers{boltkv.Driver{}}
}
