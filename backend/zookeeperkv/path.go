package zookeeperkv

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/polykv/kv/backend"
)

// path returns the node of key, for a call of the user's.
func (s *Store) path(key string) (string, error) {
	if err := s.usable(); err != nil {
		return "", err
	}
	return s.name(key)
}

// name is path for the store's own work, which goes on while it closes.
func (s *Store) name(key string) (string, error) {
	if len(key) > maxKeyBytes {
		return "", fmt.Errorf("%w: longer than %d bytes", backend.ErrInvalidKey, maxKeyBytes)
	}
	return s.space.Name(key), nil
}

// dir returns the node of a prefix, which may be empty.
func (s *Store) dir(prefix string) (string, error) {
	if prefix == "" {
		return s.root, s.usable()
	}
	return s.path(prefix)
}

// join returns the node called name in dir.
func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// parent returns the directory of path, which is not "/".
func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "/"
	}
	return path[:i]
}

// ancestors returns the directories above path, the topmost first, without "/".
func ancestors(path string) []string {
	var all []string
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			all = append(all, path[:i])
		}
	}
	return all
}

// inside reports whether path lies below the root, so that an emptied directory there is the store's to remove.
func (s *Store) inside(path string) bool {
	return len(path) > len(s.root) && path != s.root && (s.root == "/" || strings.HasPrefix(path, s.root+"/"))
}

// canonical returns the key of the node at path, and false for bookkeeping and for names that no key has.
func (s *Store) canonical(path string) (string, bool) {
	key, ok := s.space.Key(path)
	if !ok && !s.space.Reserved(path) {
		s.foreign.Add(1)
		s.skipped.Do(func() {
			s.o.Logger.Warn("zookeeper: a node whose name is no key's is skipped, and so are all others like it", "path", path)
		})
	}
	return key, ok
}

// hash spreads paths over the nodes of the bookkeeping.
func hash(path string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(path))
	return h.Sum32()
}
