package main

import "testing"

// stores are those that need no server.
var stores = map[string]func(*testing.T) shell{"memory": memory}
