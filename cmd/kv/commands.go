package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/polykv/kv"
)

// do is what a command does once its flags are read.
type do = func(context.Context, *app, *kv.Store, []string) error

var commands = []command{
	{
		name: "get", args: "[-json] KEY", min: 1, max: 1, flags: get,
		about: "print the value at KEY, byte for byte",
	},
	{
		name: "put", args: "[-ttl D] [-rev N] KEY [VALUE]", min: 1, max: 2, stdin: true, flags: put,
		about: "write VALUE, or standard input, at KEY and print the new revision",
	},
	{
		name: "create", args: "[-ttl D] KEY [VALUE]", min: 1, max: 2, stdin: true, flags: create,
		about: "as put, if there is no such KEY",
	},
	{
		name: "delete", args: "[-rev N | -r] KEY", min: 1, max: 1, flags: remove,
		about: "delete KEY and leave what is below it",
	},
	{
		name: "ls", args: "[-r] [-l | -0 | -json] [PREFIX]", max: 1, flags: ls,
		about: "list the keys directly below PREFIX; a name that ends in / has keys below it",
	},
	{
		name: "watch", args: "[-snapshot | -resume TOKEN] [-key] [-json] [PREFIX]", max: 1, long: true, flags: watch,
		about: "print what changes below PREFIX until interrupted",
	},
	{
		name: "lock", args: "[-wait D] [-lease D] NAME COMMAND [ARG…]", min: 2, max: math.MaxInt, long: true, flags: locked,
		about: "run COMMAND, with its fencing token in KV_LOCK_TOKEN, while the lock NAME is held",
	},
	{
		name: "info", args: "", flags: info,
		about: "print what the store can promise",
	},
}

func get(fs *flag.FlagSet) do {
	asJSON := fs.Bool("json", false, "print key, value, revision and expiry as one line of JSON")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		e, err := s.Get(ctx, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, record(e))
		}
		_, err = a.stdout.Write(e.Value)
		return err
	}
}

// read reads all of standard input, until ctx ends: a goroutine stays behind
// then, since nothing else ends a read of a terminal.
func (a *app) read(ctx context.Context) ([]byte, error) {
	type result struct {
		value []byte
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := io.ReadAll(a.stdin)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func ttlFlag(fs *flag.FlagSet) *time.Duration {
	return fs.Duration("ttl", 0, "let the key expire after `D`, such as 90s; a second at least")
}

func writeOptions(fs *flag.FlagSet, ttl time.Duration) (opts []kv.WriteOption) {
	if given(fs, "ttl") {
		opts = append(opts, kv.TTL(ttl))
	}
	return opts
}

// given reports whether a flag stands on the command line: a zero that does
// must be refused, and not pass for its absence.
func given(fs *flag.FlagSet, name string) (is bool) {
	fs.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

func put(fs *flag.FlagSet) do {
	ttl := ttlFlag(fs)
	rev := fs.Uint64("rev", 0, "only if KEY is at revision `N`")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		if given(fs, "rev") {
			return a.wrote(s.Update(ctx, args[0], []byte(args[1]), kv.Revision(*rev), writeOptions(fs, *ttl)...))
		}
		return a.wrote(s.Put(ctx, args[0], []byte(args[1]), writeOptions(fs, *ttl)...))
	}
}

func create(fs *flag.FlagSet) do {
	ttl := ttlFlag(fs)
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		return a.wrote(s.Create(ctx, args[0], []byte(args[1]), writeOptions(fs, *ttl)...))
	}
}

func (a *app) wrote(e kv.Entry[[]byte], err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, e.Revision)
	return err
}

func remove(fs *flag.FlagSet) do {
	rev := fs.Uint64("rev", 0, "only if KEY is at revision `N`")
	recursive := fs.Bool("r", false, "delete everything below KEY instead, and print how many keys that were")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		switch {
		case *recursive && given(fs, "rev"):
			return usageError("delete: -r and -rev exclude each other")
		case *recursive:
			n, err := s.DeletePrefix(ctx, args[0])
			if err == nil || n > 0 { // they are gone, whatever came then
				if _, e := fmt.Fprintln(a.stdout, n); err == nil {
					err = e
				}
			}
			return err
		case given(fs, "rev"):
			return s.Delete(ctx, args[0], kv.IfRevision(kv.Revision(*rev)))
		}
		return s.Delete(ctx, args[0])
	}
}

func info(*flag.FlagSet) do {
	return func(ctx context.Context, a *app, s *kv.Store, _ []string) error {
		// What some stores can do shows when they have been reached.
		if err := s.Ping(ctx); err != nil {
			return err
		}
		return printCapabilities(a.stdout, s.Capabilities())
	}
}
