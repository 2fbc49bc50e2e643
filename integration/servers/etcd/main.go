// Command etcd is the etcd server, built from its published module so that the tests run the version of their choice
// rather than the one that the operating system packages.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
