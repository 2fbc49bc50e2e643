package backend

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Position is what a Token says, in the form that drivers share. It binds the
// place in the stream to the store's epoch and to the watch's scope, so that a
// token is never applied to another store or prefix (R21).
type Position struct {
	Store    string   // as Capabilities.Name
	Epoch    string   // of the store's history: a restored backup has another; may be empty, holds no colon
	Scope    Scope    // what the watch covers
	Revision Revision // up to which everything was delivered
	Extra    string   // more of the driver's, if the revision does not suffice; holds no colon
}

// Scope is a digest of what a watch covers.
type Scope uint32

// ScopeOf digests the native root, the prefix (or key) and whether it is a
// single key.
func ScopeOf(root, prefix string, key bool) Scope {
	h := fnv.New32a()
	for _, s := range []string{root, "\x00", prefix} {
		h.Write([]byte(s))
	}
	if key {
		h.Write([]byte{0, 1})
	}
	return Scope(h.Sum32())
}

// Token returns the printed form of p.
func (p Position) Token() Token {
	b := make([]byte, 0, 64)
	b = append(b, "1:"...)
	b = append(b, p.Store...)
	b = append(b, ':')
	b = append(b, p.Epoch...)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(p.Scope), 36)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(p.Revision), 36)
	b = append(b, ':')
	b = append(b, p.Extra...)
	return Token(b)
}

// ParseToken reads a token that Position.Token made for a watch of the given
// store and scope. A malformed one, and one of another store or scope, is
// ErrInvalid. The caller compares the epoch: another one is ErrHistoryLost.
func ParseToken(t Token, store string, scope Scope) (Position, error) {
	f := strings.SplitN(string(t), ":", 6)
	if len(f) != 6 || f[0] != "1" {
		return Position{}, fmt.Errorf("%w: malformed resume token", ErrInvalid)
	}
	sc, err1 := strconv.ParseUint(f[3], 36, 32)
	rev, err2 := strconv.ParseUint(f[4], 36, 64)
	if err1 != nil || err2 != nil {
		return Position{}, fmt.Errorf("%w: malformed resume token", ErrInvalid)
	}
	if f[1] != store {
		return Position{}, fmt.Errorf("%w: resume token is of a %q store, not %q", ErrInvalid, f[1], store)
	}
	if Scope(sc) != scope {
		return Position{}, fmt.Errorf("%w: resume token is of a watch of another root or prefix", ErrInvalid)
	}
	return Position{Store: f[1], Epoch: f[2], Scope: scope, Revision: Revision(rev), Extra: f[5]}, nil
}
