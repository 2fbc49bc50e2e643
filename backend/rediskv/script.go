package rediskv

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"

	"github.com/redis/go-redis/v9"
)

// The scripts. What they do is said in each file.
var (
	//go:embed lua/head.lua
	headLua string
	//go:embed lua/log.lua
	logLua string
	//go:embed lua/write.lua
	writeLua string
	//go:embed lua/settle.lua
	settleLua string
	//go:embed lua/open.lua
	openLua string
	//go:embed lua/adopted.lua
	adoptedLua string
	//go:embed lua/probe.lua
	probeLua string
	//go:embed lua/page.lua
	pageLua string
	//go:embed lua/tail.lua
	tailLua string
	//go:embed lua/pulse.lua
	pulseLua string
	//go:embed lua/lock.lua
	lockLua string
	//go:embed lua/holder.lua
	holderLua string
)

// schema is the version of the bookkeeping that this library writes.
const schema = "1"

// script is a Lua script with its digest. A script with a shebang is checked as a whole before it runs: when memory is
// short or replicas are missing it is refused, not stopped half way.
type script struct {
	source, sha string
	readOnly    bool
}

func newScript(readOnly bool, parts ...string) *script {
	sc := &script{source: "#!lua\n", readOnly: readOnly}
	if readOnly {
		sc.source = "#!lua flags=no-writes\n"
	}
	for _, p := range parts {
		sc.source += p
	}
	sum := sha1.Sum([]byte(sc.source))
	sc.sha = hex.EncodeToString(sum[:])
	return sc
}

type scripts struct {
	write, settle, open, adopted, probe, page, tail, pulse, lock, holder *script
}

func newScripts() scripts {
	return scripts{
		write:   newScript(false, headLua, logLua, writeLua),
		settle:  newScript(false, headLua, logLua, settleLua),
		open:    newScript(false, headLua, openLua),
		adopted: newScript(false, headLua, adoptedLua),
		probe:   newScript(false, headLua, probeLua),
		page:    newScript(true, pageLua),
		tail:    newScript(true, tailLua),
		pulse:   newScript(true, pulseLua),
		lock:    newScript(false, headLua, lockLua),
		holder:  newScript(true, holderLua),
	}
}

type sender func(ctx context.Context, w *wire, args []any) (reply any, sent bool, err error)

// sendOnce is send with the user's client.
func (s *Store) sendOnce(ctx context.Context, w *wire, args []any) (any, bool, error) {
	return s.send(ctx, s.client, w, args)
}

// run runs a script by its digest and, if the server does not know it, by its text. It returns the reply, whose first
// element is a status, and whether the server may have run it. send is what the requests are made with.
func (s *Store) run(ctx context.Context, send sender, sc *script, names []string, args ...any) ([]any, bool, error) {
	name, byText := "evalsha", "eval"
	if sc.readOnly {
		name, byText = "evalsha_ro", "eval_ro"
	}
	w := &wire{text: sc.sha}
	all := make([]any, 0, 3+len(names)+len(args))
	all = append(all, name, w, len(names))
	for _, n := range names {
		all = append(all, n)
	}
	all = append(all, args...)
	reply, sent, err := send(ctx, w, all)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") { // the server has not run it
		w := &wire{text: sc.source}
		again := append([]any{byText, w}, all[2:]...)
		reply, sent, err = send(ctx, w, again)
	}
	if err != nil {
		return nil, sent, err
	}
	list, _ := reply.([]any)
	return list, sent, failure(list)
}

// runRead runs a script that changes nothing, or nothing that matters whether it is done twice.
func (s *Store) runRead(ctx context.Context, sc *script, names []string, args ...any) ([]any, error) {
	reply, _, err := s.run(ctx, s.sendQuick, sc, names, args...)
	if err != nil && reply == nil {
		return nil, readError(ctx, err)
	}
	return reply, err
}

// runWrite runs a script whose effect matters.
func (s *Store) runWrite(ctx context.Context, sc *script, names []string, args ...any) ([]any, error) {
	reply, sent, err := s.run(ctx, s.sendOnce, sc, names, args...)
	if err != nil && reply == nil {
		return nil, writeError(ctx, sent, err)
	}
	return reply, err
}

// frame is what the scripts that write expect first: KEYS[1..4] and ARGV[1..6] of lua/head.lua.
func (s *Store) frame(n int) (names []string, args []any) {
	names = append(make([]string, 0, 4+n), s.names.head, s.names.log, s.names.index, s.names.expiries)
	args = append(make([]any, 0, 6+4*n),
		schema, s.names.events, s.publish, s.opt.History.Entries, s.opt.History.Age.Microseconds(), s.opt.History.Bytes)
	return names, args
}

func text(v any) string {
	t, _ := v.(string)
	return t
}

func number(v any) int64 {
	n, _ := v.(int64)
	return n
}
