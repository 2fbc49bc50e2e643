// Package etcdkv stores keys in etcd v3.
package etcdkv
