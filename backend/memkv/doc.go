// Package memkv keeps keys in memory: the reference driver, and the store of unit tests.
package memkv
