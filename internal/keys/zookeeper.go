package keys

// ZooKeeper is the Escaper for ZooKeeper paths. It escapes what the server refuses (PathUtils.validatePath;
// go-zookeeper's own check is a subset):
//
//   - the UTF-16 code units 0x01-1F, 7F-9F, D800-F8FF and FFF0-FFFF: control characters, private use, specials, and every
//     character from U+10000, since Java sees its surrogates;
//   - the segments "." and "..".
//
// The server's own node /zookeeper is an ordinary name below any root but "/", where a Space reserves it.
func ZooKeeper() Escaper { return Escaper{zooKeeper} }

func zooKeeperRefuses(segment string, i int, r rune) bool {
	if r == '.' {
		return isDots(segment, i)
	}
	return zooKeeperForbids(r)
}

func zooKeeperForbids(r rune) bool {
	return r <= 0x1F || 0x7F <= r && r <= 0x9F || 0xD800 <= r && r <= 0xF8FF || r >= 0xFFF0
}
