package keys

import (
	"strings"
	"unicode/utf8"
)

// Error says why a string is no key. The kv layer wraps it into backend.ErrInvalidKey.
type Error string

func (e Error) Error() string { return string(e) }

// The reasons for which Canonical refuses a string.
const (
	ErrEmpty   Error = "the key is empty"
	ErrNotUTF8 Error = "the key is not valid UTF-8"
	ErrNUL     Error = "the key contains a NUL character"
)

// Canonical returns the canonical form of key: leading, trailing and doubled slashes go, nothing else changes. It
// allocates only for a key that has doubled slashes. The error is an [Error]; length is the caller's concern, since its
// limit depends on the store.
func Canonical(key string) (string, error) {
	key, err := CanonicalPrefix(key)
	if err == nil && key == "" {
		err = ErrEmpty
	}
	return key, err
}

// CanonicalPrefix is Canonical for a prefix, which may be empty: everything.
func CanonicalPrefix(prefix string) (string, error) {
	if !utf8.ValidString(prefix) {
		return "", ErrNotUTF8
	}
	if strings.IndexByte(prefix, 0) >= 0 {
		return "", ErrNUL
	}
	prefix = strings.Trim(prefix, "/")
	if !strings.Contains(prefix, "//") {
		return prefix, nil
	}
	var b strings.Builder
	b.Grow(len(prefix) - 1)
	for i := range len(prefix) {
		// Trim left no slash at the end, so a slash is always followed by something.
		if prefix[i] != '/' || prefix[i+1] != '/' {
			b.WriteByte(prefix[i])
		}
	}
	return b.String(), nil
}

// IsCanonical reports whether key is its own canonical form. It does not allocate.
func IsCanonical(key string) bool {
	return key != "" && key[0] != '/' && key[len(key)-1] != '/' && !strings.Contains(key, "//") &&
		strings.IndexByte(key, 0) < 0 && utf8.ValidString(key)
}

// Join returns the key that is called key below prefix. Either may be empty, and then the other one is returned as it is.
func Join(prefix, key string) string {
	switch {
	case prefix == "":
		return key
	case key == "":
		return prefix
	}
	return prefix + "/" + key
}

// Under reports whether key lies strictly below prefix: "foo" covers "foo/bar", neither "foobar" nor "foo" itself. The
// empty prefix covers every key.
func Under(prefix, key string) bool {
	_, ok := Relative(prefix, key)
	return ok
}

// Relative returns what is left of key below prefix, and whether key lies strictly below it.
func Relative(prefix, key string) (rest string, ok bool) {
	if prefix == "" {
		return key, key != ""
	}
	if len(key) > len(prefix)+1 && key[len(prefix)] == '/' && key[:len(prefix)] == prefix {
		return key[len(prefix)+1:], true
	}
	return "", false
}

// Child returns the direct child of prefix that is key or leads to it, and whether key lies deeper than that child. ok is
// false if key is not below prefix.
func Child(prefix, key string) (child string, deeper, ok bool) {
	rest, ok := Relative(prefix, key)
	if !ok {
		return "", false, false
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return key[:len(key)-len(rest)+i], true, true
	}
	return key, false, true
}

// PrefixEnd returns the smallest string greater than every string that starts with prefix, in byte order: the exclusive
// end of a range scan. It is empty if there is none (an empty prefix, or nothing but 0xFF): the scan has no end.
func PrefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xFF {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}
