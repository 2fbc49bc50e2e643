package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/polykv/kv"
)

// prefixOf is the optional argument PREFIX.
func prefixOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func ls(fs *flag.FlagSet) do {
	recursive := fs.Bool("r", false, "list everything below PREFIX")
	long := fs.Bool("l", false, "print revision, time of expiry and key")
	zero := fs.Bool("0", false, "end each key with NUL, and print it as it is")
	asJSON := fs.Bool("json", false, "print each entry as one line of JSON, with its value")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		if *long && *zero || *long && *asJSON || *zero && *asJSON {
			return usageError("ls: -l, -0 and -json exclude each other")
		}
		out := bufio.NewWriter(a.stdout)
		var opts []kv.ListOption
		if !*recursive {
			opts = append(opts, kv.Children())
		}
		if !*asJSON {
			opts = append(opts, kv.KeysOnly())
		}
		for e, err := range s.List(ctx, prefixOf(args), opts...) {
			if err != nil {
				return errors.Join(err, out.Flush()) // what came before is true
			}
			switch {
			case *asJSON:
				err = printJSON(out, record(e))
			case *zero:
				_, err = fmt.Fprintf(out, "%s\x00", e.Key)
			case *long:
				_, err = fmt.Fprintf(out, "%12s  %-20s  %s\n", revision(e), expiry(e.Expires), printable(e.Key))
			default:
				_, err = fmt.Fprintln(out, printable(e.Key))
			}
			if err != nil {
				return err
			}
		}
		return out.Flush()
	}
}

// revision is e's, which a directory has not.
func revision(e kv.Entry[[]byte]) string {
	if e.IsDir() {
		return "-"
	}
	return strconv.FormatUint(uint64(e.Revision), 10)
}

func expiry(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func watch(fs *flag.FlagSet) do {
	snapshot := fs.Bool("snapshot", false, "begin with what is there")
	single := fs.Bool("key", false, "watch the one key that is named PREFIX")
	token := fs.String("resume", "", "continue after the event with this `TOKEN`, which -json shows")
	asJSON := fs.Bool("json", false, "print each event as one line of JSON")
	return func(ctx context.Context, a *app, s *kv.Store, args []string) error {
		var opts []kv.WatchOption
		if *snapshot {
			opts = append(opts, kv.FromSnapshot())
		}
		if given(fs, "resume") {
			opts = append(opts, kv.Resume(kv.Token(*token)))
		}
		open := s.Watch
		if *single {
			open = s.WatchKey
		}
		w, err := open(ctx, prefixOf(args), opts...)
		if err != nil {
			return err
		}
		for ev, err := range w.Events() {
			if err != nil {
				return err
			}
			if *asJSON {
				err = printJSON(a.stdout, event(ev))
			} else {
				err = printEvent(a.stdout, ev)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// printEvent prints kind, revision, key and value between tabs.
func printEvent(w io.Writer, ev kv.Event[[]byte]) error {
	line := ev.Kind.String()
	if ev.Key != "" {
		line += fmt.Sprintf("\t%d\t%s", ev.Revision, printable(ev.Key))
		if ev.Kind != kv.Deleted {
			line += "\t" + printable(string(ev.Value))
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
