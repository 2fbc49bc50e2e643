// Command kv reads, writes and watches keys in any of the stores.
package main

func main() {}
