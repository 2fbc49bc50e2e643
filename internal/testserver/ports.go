package testserver

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below the range from which systems choose the source ports of outgoing connections (from 32768
// on Linux, 49152 elsewhere). A killed server's port would not stay free in there: any client may be given it, and a
// client that dials it may even connect to itself.
const (
	firstPort = 12000
	lastPort  = 32000
)

// freePorts returns n ports of 127.0.0.1 on which nobody listened just now.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	// All stay open until the last is found, so that none is given twice.
	for tries := 0; len(ports) < n; tries++ {
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			if tries > 1000 {
				return nil, fmt.Errorf("testserver: no free port: %w", err)
			}
			continue
		}
		defer l.Close()
		ports = append(ports, port)
	}
	return ports, nil
}

const loopbackHost = "127.0.0.1"

func loopback(port int) string { return fmt.Sprintf("%s:%d", loopbackHost, port) }
