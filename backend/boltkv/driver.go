package boltkv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/polykv/kv/backend"
)

// Driver opens files from URLs:
//
//	bolt:///var/lib/app/data.db      an absolute path
//	bolt://./data/app.db             a path relative to the working directory
//	bolt://../app.db                 likewise
//	bolt:///C:/data/app.db           an absolute path on Windows
//
// A first part that is neither empty nor a dot or two would be a host, and is
// refused. The file is created with mode 0600 if it is not there, its
// directory is not. Parameters:
//
//	bucket=a/b             Options.Root
//	meta=a/m               Options.Meta
//	timeout=5s             how long to wait for a file that another process has open
//	readonly=true          open the file for reading only
//	nosync=true            do not sync after each commit: a crash of the machine may lose
//	                       or damage the file, one of the process does not
//	history=true           Options.History, with its defaults or with
//	history_age=24h, history_changes=100000, history_bytes=67108864
//
// Parameters go before the fields of Options.
type Driver struct {
	Options
	// DialTimeout is how long to wait for a file that another process has
	// open; 0: 5 seconds.
	DialTimeout time.Duration
}

var _ backend.Driver = Driver{}

// Schemes implements backend.Driver.
func (d Driver) Schemes() []string { return []string{"bolt"} }

// Open implements backend.Driver. Errors: ErrInvalid for a URL that is not as
// above, ErrUnavailable for a file that another process (or another Store of
// this one) has open or that cannot be opened, ErrPermission, ErrCorrupt for a
// file that is not bbolt's or damaged, ErrNewerSchema.
func (d Driver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	path, err := filePath(u)
	if err != nil {
		return nil, err
	}
	o, file, err := d.parameters(u)
	if err != nil {
		return nil, err
	}
	if _, err := layoutOf(o.Root, o.Meta); err != nil {
		return nil, err
	}
	db, err := open(ctx, path, file)
	if err != nil {
		// Errors of the file system name the file, those of bbolt do not.
		if named := (*fs.PathError)(nil); !errors.As(err, &named) {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return nil, err
	}
	s := newStore(db, true, o)
	if err := s.Ping(ctx); err != nil { // reads and judges the bookkeeping
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// filePath is the path in u.
func filePath(u backend.URL) (string, error) {
	if u.User != "" || u.Password != "" {
		return "", fmt.Errorf("%w: a bolt URL has no user", backend.ErrInvalid)
	}
	path := u.Path
	switch {
	case len(u.Hosts) == 0:
		if runtime.GOOS == "windows" && len(path) > 2 && path[2] == ':' {
			path = path[1:] // /C:/…
		}
	case len(u.Hosts) == 1 && (u.Hosts[0] == "." || u.Hosts[0] == ".."):
		path = u.Hosts[0] + path
	default:
		return "", fmt.Errorf("%w: a bolt URL has no host: want bolt:///absolute/path or bolt://./relative/path", backend.ErrInvalid)
	}
	if strings.Trim(path, "/.") == "" || strings.HasSuffix(path, "/") {
		return "", fmt.Errorf("%w: a bolt URL names a file", backend.ErrInvalid)
	}
	return path, nil
}

// parameters reads the query of u over the driver's fields.
func (d Driver) parameters(u backend.URL) (Options, bbolt.Options, error) {
	o, p := d.Options, u.Params()
	o.Root = p.String("bucket", o.Root)
	o.Meta = p.String("meta", o.Meta)
	file := bbolt.Options{FreelistType: bbolt.FreelistMapType, Timeout: d.DialTimeout}
	if file.Timeout <= 0 {
		file.Timeout = 5 * time.Second
	}
	file.Timeout = p.Duration("timeout", file.Timeout)
	file.ReadOnly = p.Bool("readonly", false)
	file.NoSync = p.Bool("nosync", false)

	on := p.Bool("history", o.History != nil)
	var h History
	if o.History != nil {
		h = *o.History
	}
	h.MaxAge = p.Duration("history_age", h.MaxAge)
	h.MaxChanges = p.Int("history_changes", h.MaxChanges)
	h.MaxBytes = int64(p.Int("history_bytes", int(h.MaxBytes)))
	if o.History = nil; on {
		o.History = &h
	}
	if err := p.Err(); err != nil {
		return o, file, err
	}
	if file.Timeout <= 0 {
		return o, file, fmt.Errorf("%w: URL parameter \"timeout\" must be positive", backend.ErrInvalid)
	}
	return o, file, nil
}

// open opens the file, in a goroutine that ctx need not wait for.
func open(ctx context.Context, path string, o bbolt.Options) (*bbolt.DB, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	type result struct {
		db  *bbolt.DB
		err error
	}
	ch := make(chan result)
	go func() {
		db, err := openFile(path, o)
		select {
		case ch <- result{db, err}:
		case <-ctx.Done():
			if err == nil {
				_ = db.Close()
			}
		}
	}()
	select {
	case r := <-ch:
		return r.db, r.err
	case <-ctx.Done():
		return nil, backend.ContextError(ctx)
	}
}

// openFile opens the file, if it is whole.
func openFile(path string, o bbolt.Options) (db *bbolt.DB, err error) {
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		if err != nil {
			return nil, err
		}
		if err := checkLength(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	defer rescue(&err)
	db, err = bbolt.Open(path, 0o600, &o)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: the file is open elsewhere: %w", backend.ErrUnavailable, err)
	}
	return db, classify(err)
}
