package testserver

import (
	"crypto/rand"
	"fmt"
)

// Credentials are what a client shows to a server with Spec.Auth. Consul takes the token, the others user and
// password. The zero value is that of a server without.
type Credentials struct {
	User, Password string
	Token          string
}

const (
	// LimitedRoot begins every key that the limited user of a server with Spec.Auth may read and write: "limited/key" and
	// "limited-too", with a slash before it or not. On ZooKeeper, where rights belong to nodes, it is the node itself:
	// what the user makes below it is its own.
	LimitedRoot = "limited"

	// ForbiddenRoot is a place that the limited user may neither read nor write. Nor may it write anything else outside
	// LimitedRoot; on ZooKeeper it may read what others have made there without rights of its own.
	ForbiddenRoot = "forbidden"
)

func newCredentials(store Store, user string) Credentials {
	if store == Consul {
		return Credentials{Token: randomUUID()}
	}
	return Credentials{User: user, Password: rand.Text()}
}

func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// adminName returns the user who may do everything: etcd insists on the name.
func adminName(store Store) string {
	if store == Etcd {
		return "root"
	}
	return "admin"
}
