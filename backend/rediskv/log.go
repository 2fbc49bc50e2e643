package rediskv

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/polykv/kv/backend"
)

// change is one entry of the log.
type change struct {
	id     id
	kind   backend.Kind
	entry  backend.Entry
	before id             // of the key's entry before; zero if there is none
	prev   *backend.Entry // if it was asked for and the log still has it
}

// logPart is a stretch of the log, of which only what matched was sent.
type logPart struct {
	at, end id // how far it reaches; how far the log reached then
	changes []change
}

// readLog reads the log after a place: what is of the key called match or, unless single is set, what begins with match.
// The answer is ErrHistoryLost if the log no longer goes back so far, or is another one.
func (s *Store) readLog(ctx context.Context, epoch string, after id, match string, single, previous bool) (logPart, error) {
	reply, err := s.runRead(ctx, s.scripts.tail, []string{s.names.head, s.names.log},
		schema, epoch, after.String(), match, flag(single), s.opt.WatchBuffer, flag(previous))
	if err != nil {
		return logPart{}, err
	}
	switch status(reply) {
	case "none":
		return logPart{}, fmt.Errorf("%w: the server has lost its data", backend.ErrHistoryLost)
	case "lost":
		return logPart{}, fmt.Errorf("%w: the log does not reach back to revision %d", backend.ErrHistoryLost, after.rev)
	}
	if len(reply) < 3 || (len(reply)-3)%5 != 0 {
		return logPart{}, fmt.Errorf("%w: answer to a read of the log", backend.ErrCorrupt)
	}
	at, ok1 := parseID(text(reply[1]))
	end, ok2 := parseID(text(reply[2]))
	if !ok1 || !ok2 {
		return logPart{}, fmt.Errorf("%w: place in the log", backend.ErrCorrupt)
	}
	part := logPart{at: at, end: end, changes: make([]change, 0, (len(reply)-3)/5)}
	for f := reply[3:]; len(f) > 0; f = f[5:] {
		c, err := parseChange(text(f[0]), text(f[1]), text(f[2]), text(f[3]))
		if err != nil {
			return logPart{}, err
		}
		if old, ok := f[4].(string); ok && c.prev != nil {
			c.prev.Value = []byte(old)
		} else {
			c.prev = nil
		}
		part.changes = append(part.changes, c)
	}
	return part, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// parseChange reads an entry of the log: see lua/log.lua. The change has a prev, without a value, if the key was there
// before.
func parseChange(place, key, value, meta string) (change, error) {
	var c change
	f := strings.Split(meta, " ")
	at, ok := parseID(place)
	if !ok || len(f) != 7 {
		return c, fmt.Errorf("%w: entry of the log", backend.ErrCorrupt)
	}
	created, err1 := strconv.ParseUint(f[3], 10, 64)
	expires, err2 := strconv.ParseInt(f[4], 10, 64)
	expired, err3 := strconv.ParseInt(f[5], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return c, fmt.Errorf("%w: entry of the log", backend.ErrCorrupt)
	}
	c.id = at
	c.entry = backend.Entry{Key: key, Revision: backend.Revision(at.rev)}
	switch f[0] {
	case "c":
		c.kind = backend.Created
	case "u":
		c.kind = backend.Updated
	case "d":
		c.kind = backend.Deleted
	default:
		return c, fmt.Errorf("%w: kind of an entry of the log", backend.ErrCorrupt)
	}
	if c.kind != backend.Deleted {
		c.entry.Value = []byte(value)
		c.entry.Created = backend.Revision(created)
		c.entry.Expires = expiry(expires)
	}
	if f[2] != "0" {
		if c.before, ok = parseID(f[2]); !ok {
			return c, fmt.Errorf("%w: entry of the log", backend.ErrCorrupt)
		}
		c.prev = &backend.Entry{
			Key: key, Revision: backend.Revision(c.before.rev), Created: backend.Revision(created), Expires: expiry(expired),
		}
	}
	return c, nil
}

// parseMilliseconds reads a duration as the scripts publish it.
func parseMilliseconds(s string) (ms int64, ok bool) {
	ms, err := strconv.ParseInt(s, 10, 64)
	return max(ms, 0), err == nil
}
