// Package integration proves the contract on real servers.
package integration
