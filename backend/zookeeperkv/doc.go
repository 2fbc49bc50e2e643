// Package zookeeperkv stores keys in ZooKeeper.
package zookeeperkv
