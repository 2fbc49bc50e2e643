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
	place, s, _ := strings.Cut(s, " ")
	created, s, _ := strings.Cut(s, " ")
	expires, s, _ := strings.Cut(s, " ")
	length, s, _ := strings.Cut(s, " ")
	digest, lease, _ := strings.Cut(s, " ")
	at, ok := parseID(place)
	made, err1 := strconv.ParseUint(created, 10, 64)
	ends, err2 := strconv.ParseInt(expires, 10, 64)
	size, err3 := strconv.Atoi(length)
	if !ok || err1 != nil || err2 != nil || err3 != nil || len(digest) != digestLength {
		return r, fmt.Errorf("%w: malformed record", backend.ErrCorrupt)
	}
	return record{id: at, created: backend.Revision(made), expires: ends, length: size, digest: digest, lease: lease}, nil
}

// describes reports whether value is the one that the record was written for: another program that writes a key leaves
// the record as it is.
func (r record) describes(value []byte) bool {
	if r.length != len(value) {
		return false
	}
	sum := hexDigest(value)
	return r.digest == string(sum[:])
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

func digest(value []byte) string {
	sum := hexDigest(value)
	return string(sum[:])
}

func hexDigest(value []byte) (text [digestLength]byte) {
	sum := sha1.Sum(value)
	hex.Encode(text[:], sum[:digestLength/2])
	return text
}
