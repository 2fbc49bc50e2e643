// Package consulkv stores keys in Consul's KV store.
package consulkv
