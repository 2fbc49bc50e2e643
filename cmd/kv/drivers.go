package main

import (
	"crypto/tls"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
)

// drivers is what the command can open. conf, if it is not nil, is for
// connections.
func drivers(conf *tls.Config) kv.Drivers {
	return kv.Drivers{
		etcdkv.Driver{TLS: conf},
		consulkv.Driver{TLS: conf},
		zookeeperkv.Driver{TLS: conf},
		rediskv.Driver{TLS: conf},
		boltkv.Driver{},
	}
}
