package rediskv

import (
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// names are the names in Redis of everything that a Store touches.
type names struct {
	space keys.Space

	head, log, index, expiries string // see lua/head.lua; index is the set of the keys
	probe                      string
	records                    string // what the names of the records begin with
	locks                      string // what the names of the locks' keys begin with
	events, wakes, heads       string // channels: of the log, what those of waiting processes begin with, of lock holders
}

func newNames(root, meta string) (names, error) {
	space := keys.NewSpace(root, keys.Verbatim())
	if meta != "" {
		var err error
		if space, err = space.WithMeta(meta); err != nil {
			return names{}, backend.Because(backend.ErrInvalid, err)
		}
	}
	m := space.Meta() + "/"
	return names{
		space: space, head: m + "head", log: m + "log", index: m + "keys", expiries: m + "expiries", probe: m + "probe",
		records: m + "key/", locks: m + "lock/", events: m + "events", wakes: m + "wake/", heads: m + "holders",
	}, nil
}

func (n names) value(key string) string  { return n.space.Name(key) }
func (n names) record(key string) string { return n.records + key }

// inOneSlot reports, for Redis Cluster, why the names do not lie in one hash slot, which is what makes scripts over
// several keys possible.
func (n names) inOneSlot() error {
	root, meta := hashTag(n.space.Prefix("")), hashTag(n.head)
	switch {
	case root == "":
		return fmt.Errorf("%w: on Redis Cluster the root needs a hash tag, such as {%s}, so that its keys share a slot",
			backend.ErrInvalid, strings.Trim(n.space.Root(), "/{}"))
	case meta != root:
		return fmt.Errorf("%w: on Redis Cluster the bookkeeping %q needs the hash tag of the root, {%s}",
			backend.ErrInvalid, n.space.Meta(), root)
	}
	return nil
}

// hashTag is the part of name that Redis Cluster hashes: what stands between the first { and the next }, if anything.
func hashTag(name string) string {
	_, rest, ok := strings.Cut(name, "{")
	if !ok {
		return ""
	}
	tag, _, ok := strings.Cut(rest, "}")
	if !ok {
		return ""
	}
	return tag
}

// keyspace is the pattern of the notifications for the keys below the root, and the channel of those for the probe.
func (n names) keyspace(db int) (pattern, probe string) {
	channel := fmt.Sprintf("__keyspace@%d__:", db)
	return channel + globEscape(n.space.Prefix("")) + "*", channel + n.probe
}

// globEscape makes a pattern that matches s alone. An unescaped * in a prefix would match what belongs to others.
func globEscape(s string) string {
	if !strings.ContainsAny(s, `*?[]^-\`) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`*?[]^-\`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// database is the number of the database that client uses.
func database(client redis.UniversalClient) int {
	if c, ok := client.(*redis.Client); ok {
		return c.Options().DB
	}
	return 0
}

// lockNames are the names of one lock's keys.
type lockNames struct{ queue, contenders, deadlines string }

func (n names) lock(name string) lockNames {
	return lockNames{n.locks + "queue/" + name, n.locks + "contenders/" + name, n.locks + "deadlines/" + name}
}
