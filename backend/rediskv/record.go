package rediskv

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
)

// id is the place of an entry in the log: the revision and, inside a transaction, the number of the change. Redis writes
// it as "revision-number".
type id struct{ rev, seq uint64 }

func parseID(s string) (id, bool) {
	rev, seq, ok := strings.Cut(s, "-")
	r, err1 := strconv.ParseUint(rev, 10, 64)
	n, err2 := strconv.ParseUint(seq, 10, 64)
	return id{r, n}, ok && err1 == nil && err2 == nil
}

func (i id) String() string {
	return strconv.FormatUint(i.rev, 10) + "-" + strconv.FormatUint(i.seq, 10)
}

func (i id) after(j id) bool { return i.rev > j.rev || i.rev == j.rev && i.seq > j.seq }

// record is what is known of a key besides its value: see lua/log.lua for the form.
type record struct {
	id      id
	created backend.Revision
	expires int64 // ms; 0: never
	length  int
	digest  string
	lease   string
}

func parseRecord(s string) (record, error) {
	var r record
	f := strings.SplitN(s, " ", 6)
	if len(f) < 5 {
		return r, fmt.Errorf("%w: a record of %d fields", backend.ErrCorrupt, len(f))
	}
	created, err1 := strconv.ParseUint(f[1], 10, 64)
	expires, err2 := strconv.ParseInt(f[2], 10, 64)
	length, err3 := strconv.Atoi(f[3])
	at, ok := parseID(f[0])
	if !ok || err1 != nil || err2 != nil || err3 != nil {
		return r, fmt.Errorf("%w: malformed record", backend.ErrCorrupt)
	}
	r = record{id: at, created: backend.Revision(created), expires: expires, length: length, digest: f[4]}
	if len(f) == 6 {
		r.lease = f[5]
	}
	return r, nil
}

// describes reports whether value is the one that the record was written for: another program that writes a key leaves
// the record as it is.
func (r record) describes(value string) bool {
	return r.length == len(value) && r.digest == digest(value)
}

func (r record) entry(key string) backend.Entry {
	e := backend.Entry{Key: key, Revision: backend.Revision(r.id.rev), Created: r.created}
	if r.lease == "" {
		e.Expires = expiry(r.expires)
	}
	return e
}

func expiry(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// digestLength is how many hexadecimal digits of the SHA-1 a record keeps. It tells apart what was written by accident,
// not by an adversary: whoever may write the value may write the record.
const digestLength = 16

func digest[T string | []byte](value T) string {
	sum := sha1.Sum([]byte(value))
	var text [digestLength]byte
	hex.Encode(text[:], sum[:digestLength/2])
	return string(text[:])
}
