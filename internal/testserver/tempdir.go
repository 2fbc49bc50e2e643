package testserver

import (
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
