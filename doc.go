// Package kv is one context-first API over etcd, Consul, ZooKeeper, Redis and bbolt.
package kv
