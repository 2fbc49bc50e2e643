// Command kv reads, writes and watches keys in etcd, Consul, ZooKeeper, Redis
// or a bbolt file.
//
//	export KV_URL=etcd://127.0.0.1:2379/shop
//	kv put greeting hello
//	kv get greeting
//	kv ls
//	kv watch orders
//
// "kv help" lists the commands, the options and the exit status.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/polykv/kv"
)

func main() {
	a := app{
		drivers: drivers,
		env:     os.Getenv,
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
	}
	os.Exit(a.start(os.Args[1:]))
}

// start is run, which signals interrupt.
func (a *app) start(args []string) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	return a.run(ctx, args)
}

// app is the command with what it touches of the outside.
type app struct {
	drivers func(*tls.Config) kv.Drivers
	env     func(string) string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	stopFor time.Duration // 0 is stopFor

	url     string
	prefix  string
	timeout time.Duration
	tls     security
}

// command is one of the commands. Its flags are read by run.
type command struct {
	name, args, about string
	long              bool // has no time limit
	stdin             bool // takes its last argument from standard input where it is not given
	min, max          int  // arguments
	flags             func(*flag.FlagSet) func(context.Context, *app, *kv.Store, []string) error
}

const usage = `usage: kv [OPTION…] COMMAND [OPTION…] [ARG…]

options, and the variables that they can stand in:
  -url URL      KV_URL         the store; the variable keeps a password out of the list of processes
  -prefix P     KV_PREFIX      keep to what lies below P
  -timeout D                   how long the store may take, save in watch and lock; 10s unless given, 0 is no limit
  -cacert FILE  KV_TLS_CACERT  use TLS, and trust the certificates in FILE
  -cert FILE    KV_TLS_CERT    use TLS, and show this certificate
  -key FILE     KV_TLS_KEY     its key

stores:
  etcd://host:2379,host:2379/root    consul://host:8500/root    zookeeper://host:2181,host:2181/root
  redis://:password@host:6379/root   bolt:///path/to/file.db

commands, of which "kv help COMMAND" tells one:
`

const statuses = `
exit status: 0 done, 1 another error, 2 wrong usage, an invalid key or a value too large, 3 no such key,
4 the key exists, is not at the revision given, or is locked, 5 the store does not answer, 6 the outcome of a write is
unknown, 7 permission denied, 8 the lock was lost, 130 interrupted; kv lock: that of COMMAND, or 128 and the number
of the signal that ended it
`

// run runs one command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	err := a.try(ctx, args)
	var child childStatus
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, new(usageError)):
		fmt.Fprintf(a.stderr, "kv: %v (kv help tells more)\n", err)
		return exitUsage
	case errors.As(err, &child):
		return int(child)
	case ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, kv.ErrUncertain):
		return exitInterrupted // by the user, who knows
	}
	fmt.Fprintln(a.stderr, message(err))
	return status(err)
}

type usageError string

func (e usageError) Error() string { return string(e) }

func (a *app) try(ctx context.Context, args []string) error {
	top := flag.NewFlagSet("kv", flag.ContinueOnError)
	top.SetOutput(io.Discard)
	top.StringVar(&a.url, "url", a.env("KV_URL"), "")
	top.StringVar(&a.prefix, "prefix", a.env("KV_PREFIX"), "")
	top.StringVar(&a.tls.ca, "cacert", a.env("KV_TLS_CACERT"), "")
	top.StringVar(&a.tls.cert, "cert", a.env("KV_TLS_CERT"), "")
	top.StringVar(&a.tls.key, "key", a.env("KV_TLS_KEY"), "")
	top.DurationVar(&a.timeout, "timeout", 10*time.Second, "")
	if err := top.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			a.help(a.stdout)
			return err
		}
		return usageError(err.Error())
	}
	if top.NArg() == 0 {
		return usageError("no command")
	}
	name, rest := top.Arg(0), top.Args()[1:]
	help := name == "help"
	switch {
	case help && len(rest) == 0:
		a.help(a.stdout)
		return nil
	case help && len(rest) > 1:
		return usageError("help: want [COMMAND]")
	case help:
		name = rest[0]
	}
	for _, c := range commands {
		switch {
		case c.name != name:
		case help:
			c.help(a.stdout)
			return nil
		default:
			return a.command(ctx, c, rest)
		}
	}
	if strings.Contains(name, "://") {
		// Not shown: it may have a password.
		return usageError("a URL where the command should be: it belongs to -url")
	}
	return usageError(fmt.Sprintf("unknown command %q", name))
}

func (a *app) command(ctx context.Context, c command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.flags(fs)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			c.help(a.stdout)
			return err
		}
		return usageError(c.name + ": " + err.Error())
	}
	if n := fs.NArg(); n < c.min || n > c.max {
		return usageError(fmt.Sprintf("%s: want %s", c.name, c.args))
	}
	if a.url == "" {
		return usageError("no store: give -url or set KV_URL")
	}
	conf, err := a.tls.config()
	if err != nil {
		return err
	}
	values := fs.Args()
	if c.stdin && len(values) < c.max {
		// Before the time limit begins, which is the store's, and before a
		// file is opened, which others may wait for.
		value, err := a.read(ctx)
		if err != nil {
			return err
		}
		values = append(values, string(value))
	}
	if !c.long && a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	s, err := a.drivers(conf).Open(ctx, a.url, kv.Prefix(a.prefix))
	if err != nil {
		return err
	}
	err = do(ctx, a, s, values)
	if e := s.Close(); err == nil {
		err = e
	}
	return err
}

func (a *app) help(w io.Writer) {
	fmt.Fprint(w, usage)
	for _, c := range commands {
		c.help(w)
	}
	fmt.Fprint(w, statuses)
}

func (c command) help(w io.Writer) {
	fmt.Fprintf(w, "  kv %s %s\n        %s\n", c.name, c.args, c.about)
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.flags(fs)
	fs.VisitAll(func(f *flag.Flag) {
		kind, about := flag.UnquoteUsage(f)
		if kind != "" {
			kind = " " + kind
		}
		fmt.Fprintf(w, "        -%s%s: %s\n", f.Name, kind, about)
	})
}
