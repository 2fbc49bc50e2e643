package testserver

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// A tempDir holds a server's data for as long as the test process lives. The process locks a file in it; a directory
// whose file is not locked was left behind by a process that is dead, and the next one removes it.
type tempDir struct {
	path string
	lock *os.File
}

const (
	tempPrefix = "kv-testserver-"
	lockName   = "lock"
)

func newTempDir(name string) (*tempDir, error) {
	removeAbandoned(os.TempDir())
	path, err := os.MkdirTemp("", tempPrefix+name+"-")
	if err != nil {
		return nil, err
	}
	lock, err := lockTempDir(path)
	if err != nil {
		_ = os.RemoveAll(path) // the first error is the one to tell
		return nil, err
	}
	return &tempDir{path: path, lock: lock}, nil
}

// lockTempDir gives the file its name when it is locked: others must never see it in between.
func lockTempDir(path string) (*os.File, error) {
	f, err := os.CreateTemp(path, "new")
	if err != nil {
		return nil, err
	}
	if _, err = tryLock(f); err == nil {
		err = os.Rename(f.Name(), filepath.Join(path, lockName))
	}
	if err != nil {
		_ = f.Close() // the first error is the one to tell
		return nil, err
	}
	return f, nil
}

func (d *tempDir) remove() error {
	if err := os.RemoveAll(d.path); err != nil {
		return err
	}
	_ = d.lock.Close() // nothing was written; closed already when remove is repeated
	return nil
}

// removeAbandoned is a courtesy to the machine: what it cannot remove now, another run will.
func removeAbandoned(parent string) {
	locks, err := filepath.Glob(filepath.Join(parent, tempPrefix+"*", lockName))
	if err != nil {
		return
	}
	for _, name := range locks {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		if free, err := tryLock(f); err == nil && free {
			_ = os.RemoveAll(filepath.Dir(name))
		}
		_ = f.Close()
	}
}

// Abandoned reports whether the owner of a server's directory (Layout.Dir) has died, or has closed the server. It is for
// whatever else an Engine leaves behind that names the directory, if the owner's TempID is this process's.
func Abandoned(dir string) bool {
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		// A directory is removed only when nobody owns it.
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	free, err := tryLock(f)
	return err == nil && free
}

// TempID returns a name that is equal for processes that see the same temporary directory, and so each other's servers'.
func TempID() (string, error) {
	file := filepath.Join(os.TempDir(), tempPrefix+"id")
	text, err := os.ReadFile(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return string(text), err
	}
	f, err := os.CreateTemp("", tempPrefix+"id-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(rand.Text())
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	// Not a rename: the first one stays, and nobody reads half of it.
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	text, err = os.ReadFile(file)
	return string(text), err
}
