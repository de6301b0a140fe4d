"""Blobs between members, `/meshd/blob/1`: who gives and who fetches. The front door to both."""

from p2p.blob_fetcher import BlobFetcher, BlobFetcherSettings, Transfer, TransferStats
from p2p.blob_messages import BLOB_PROTOCOL_ID, Blobs
from p2p.blob_server import BlobServer, BlobServerSettings

__all__ = [
    "BLOB_PROTOCOL_ID",
    "BlobFetcher",
    "BlobFetcherSettings",
    "BlobServer",
    "BlobServerSettings",
    "Blobs",
    "Transfer",
    "TransferStats",
]
