// Package boltkv keeps keys in a bbolt file: the embedded default.
package boltkv
